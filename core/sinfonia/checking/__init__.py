"""Histories of what clients saw, and whether they are strictly serializable.

It works on histories alone and knows nothing of clusters, networks or the simulator.
"""
