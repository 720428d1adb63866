"""A hash map from bytes to bytes that grows while it is used, over any number of memory nodes."""
