"""The protocol as pure machines: an event goes in, effects come out in the order they must happen.

::

    messages   what crosses the wire            records   what the redo log holds
    locks      byte-range locks, tried          sessions  at-most-once, per client
    lists      in-doubt and decided             participant   a memory node's half (Figure 4)
    coordinator   an application node's half    recovery      the recovery coordinator (4.4)
    watches    clients told of commits          watching   what a client makes of it
    replication/  the log at several members    membership/   primaries, replicas, the manager
    load/      what is counted by class tag

No clock, socket, file, thread or randomness in here: time and chance come in as arguments.
"""
