"""Sinfonia beside Redis, etcd and a bare echo; and what a memory node holds in memory."""
