"""Histories of groups, and the check that they keep what is promised: pure, importable alone."""
