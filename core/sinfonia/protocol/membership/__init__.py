"""The members of the memory nodes: who is primary, who is replica, and how managers change that."""
