"""The handle on a cluster: describe it, start and stop it, find it, ask it, look at it, operate it.

Commands, tests and applications of several rooms drive clusters through it.
"""
