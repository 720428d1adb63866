"""Backup of a whole cluster while it runs, and restore to any moment that the backup reaches.

::

    cut          which records belong to a moment, and what of them has committed: the reasoning
    archive      what a backup is as files     blocks  their bytes
    node_copy    one memory node's part: what is asked and what is made of the answers; no sockets
    copier       asks all memory nodes at once, and writes
    restore      makes data directories of what was written
"""
