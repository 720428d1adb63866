"""What a run asks of a workload: set up, the program of a client, and a judge.

A workload is written on the public minitransaction builder and knows nothing of faults.  Its life
in one run (``Simulation``):

1. ``set_up`` prepares the memory of the cluster while nothing goes wrong;
2. ``program`` starts the program of each client, also of clients that replace dead ones, and the
   run goes on until ``done``; faults strike meanwhile;
3. ``inspect`` looks at the cluster at rest: once after the work, and once after all memory nodes
   have lost their power;
4. ``judge`` decides on what clients were told.

A program is a chain of callbacks on ``SimulatedClient.execute``, as in
``workloads/minitransactions.py``, or a generator of steps, as applications write them.  For the
latter a room writes no workload of its own but ``Programs``, which ``workloads/steps.py`` drives::

    class Increments:
        acknowledged = 0

        def set_up(self) -> Steps[None]:
            yield from pause(0.0)  # memory is zeros

        def program(self, client: SimulatedClient) -> Steps[None]:
            t = minitransaction()
            t.add(0, 4096, 1)
            yield from execute(t)  # what it raises ends the program
            self.acknowledged += 1

        def judge(self) -> Steps[None]:
            t = minitransaction()
            t.read(0, 4096, 8)
            result = yield from execute(t)
            assert int.from_bytes(result.reads[0], "little") >= self.acknowledged

    simulated_steps(seed, Increments()).run()

A broken promise is an AssertionError, wherever it is found; ``Simulation.run`` adds how the run is
replayed.
"""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sinfonia.simulation.client import SimulatedClient
    from sinfonia.simulation.cluster import Cluster

# A client does so many things at a time, at most.
LOOPS_MAX = 3


class Workload(Protocol):
    """One kind of work, for one run."""

    @property
    def clients(self) -> int:
        """How many clients work at a time."""
        ...

    @property
    def work_left(self) -> bool:
        """Whether a client that starts now would find something to do."""
        ...

    @property
    def done(self) -> bool:
        """Whether all work has ended, in one way or another."""
        ...

    def set_up(self, cluster: "Cluster") -> None:
        """Prepare the cluster; nothing goes wrong meanwhile."""
        ...

    def program(self, client: "SimulatedClient") -> None:
        """Begin the life of ``client``, and start what it does."""
        ...

    def inspect(self, cluster: "Cluster") -> None:
        """Assert what must hold in the memory of a cluster that is at rest.

        This is called twice.  It may write, as long as the second verdict is the same, and as long
        as the cluster is at rest again when it returns.
        """
        ...

    def judge(self, cluster: "Cluster") -> None:
        """Assert what must hold of all that clients were told."""
        ...


class Budget:
    """So many pieces of work; clients take them one by one."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self) -> bool:
        """Whether there was one more."""
        self.left -= 1
        return self.left >= 0
