"""How a memory node's primary and its replicas come to hold the same log."""
