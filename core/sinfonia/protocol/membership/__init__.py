"""The members of the memory nodes: primaries, replicas, and how managers change them."""
