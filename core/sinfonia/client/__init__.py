"""The library of application nodes: `cluster` for async programs, `blocking` for scripts."""
