"""``python -m sinfoniafs.demo``: a cluster file system on this machine, from nothing to figures."""
