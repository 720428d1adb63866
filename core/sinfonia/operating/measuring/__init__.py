"""Load on a cluster, and what it is measured beside: for `sinfonia bench` and core/bench."""
