"""What Sinfonia is measured beside: Redis and etcd, each driven by the best client for it.

The work is the same for all (``work``): three compares, three reads and three writes of 8 bytes, as
one atomic step.
"""
