"""Whole clusters in one thread and virtual time, and small groups of members for tests.

Processes run the code that is deployed; network, disks and clocks are virtual and faulty.  A seed
replays a run: ``python -m sinfonia.simulation``.
"""
