"""A log: one order of entries on one memory node, which any program may append to and read."""
