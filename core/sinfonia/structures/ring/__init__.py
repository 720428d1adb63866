"""A ring of records in the memory of one memory node: appended by writers, read with cursors."""
