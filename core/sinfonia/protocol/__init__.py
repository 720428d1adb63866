"""The protocol as pure machines: an event goes in, effects come out in the order they must happen.

::

    messages   what crosses the wire            records   what the redo log holds
    locks      byte-range locks, tried          sessions  at-most-once, per client
    participant   a memory node's half (Figure 4): with one participant (one_phase), with several
                  (two_phase), asked by recovery (recovery_answers); each vote counted (votes)
    participant_state   lists, locks and sessions, which the log gives back
    lists      in-doubt and decided             recovery      the recovery coordinator (4.4)
    coordinator   an application node's half
    watches    clients told of commits          watching   what a client makes of it
    replication/  the log at several members    membership/   primaries, replicas, the manager
    load/      what is counted by class tag

No clock, socket, file, thread or randomness in here: time and chance come in as arguments.
"""
