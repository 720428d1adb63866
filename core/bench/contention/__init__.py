"""Minitransactions that want the same bytes."""
