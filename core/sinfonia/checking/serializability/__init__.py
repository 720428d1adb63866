"""Strict serializability: the check of a history, and the definition that the check is held to."""
