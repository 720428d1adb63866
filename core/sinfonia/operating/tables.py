"""A table is wrapped rather than cut, however narrow the terminal is."""

from rich.console import Console

# What the widest table of these commands needs.
TABLE_WIDTH_MIN = 120


def table_console() -> Console:
    """A console that wraps a table rather than cutting what is in it."""
    return Console(width=max(TABLE_WIDTH_MIN, Console().width))
