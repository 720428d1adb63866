"""What survives a crash: the redo log, the disk image and the identity of a memory node.

::

    data_directory   whose directory it is, which life this is, and one process at a time
    journal          numbered records and the lives that wrote them; the log that is kept in memory
    redo_log         every step, synced before it is acknowledged
    log_segments     its files     log_blocks  its bytes     block_index  its table of contents
    batches          encoded records, cut and joined
    disk_image       memory, saved in the background by checkpoints   sealed_file  small files
    address_space    memory itself, sparse
    stable_storage   opens all of these together, or refuses
    files            the few things asked of a disk; the simulator has another one
"""
