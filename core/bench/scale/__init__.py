"""How throughput grows with the size of the system: real machines, virtual time, stated costs.

``costs`` says what each step takes, ``measure`` finds that out on a real machine, ``system`` runs
coordinators and participants under it, and ``experiment`` counts what they get done.
"""
