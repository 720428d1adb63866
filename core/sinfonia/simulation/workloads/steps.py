"""Operations of several minitransactions: programs of steps, as applications write them.

A program is a ``Steps`` generator; each client works on a few of them at a time.  What a program
has seen it keeps in the object that made it, and at rest a judge, a program as well, reads what is
in the cluster.  A client that is killed drops its programs where they are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sinfonia.client.steps import NO_HINT, NOTHING, Drive, Pause, Steps, WaitFor
from sinfonia.errors import NotExecuted, OutcomeUnknown, SinfoniaError
from sinfonia.minitransaction import Minitransaction
from sinfonia.protocol.attempts import Call
from sinfonia.simulation.client import SimulatedClient
from sinfonia.simulation.cluster import Cluster
from sinfonia.simulation.fault_plans import FaultsUntilDone
from sinfonia.simulation.profile import draw_profile
from sinfonia.simulation.rest import come_to_rest, compare_replicas
from sinfonia.simulation.simulator import Simulation
from sinfonia.simulation.workload import LOOPS_MAX, Budget

# A timeout that only a client can rely on that never dies and that no fault strikes.
CALM_TIMEOUT_S = 10.0

# Faults strike for so long, unless all is done before; where memory nodes die twice a second, that
# is little.
WORK_S_MAX = 60.0

# Before the work, after it, and for the judge, in fine weather.
CALM_S_MAX = 60.0

PROGRAMS = 30

# Programs may rely on so many.
MEMORY_NODES_MIN = 2

# What a program may end with: it did what it could.
GIVEN_UP = (NotExecuted, OutcomeUnknown)


class Programs(Protocol):
    """What is done, and how it is judged; each part is made of steps."""

    def set_up(self) -> Steps[None]:
        """Prepare the memory before anything goes wrong."""
        ...

    def program(self, client: SimulatedClient) -> Steps[None]:
        """One more program for ``client``, whose ``rng`` and ``name`` it may use."""
        ...

    def judge(self) -> Steps[None]:
        """Assert what must hold in the end.

        This runs twice, so what it writes must not change its verdict.
        """
        ...


@dataclass(frozen=True, slots=True)
class PlainPrograms:
    """Programs that are functions."""

    set_up: Callable[[], Steps[None]]
    program: Callable[[SimulatedClient], Steps[None]]
    judge: Callable[[], Steps[None]]


class StepsWorkload:
    """The workload: so many of ``programs``, by as many clients as the profile says.

    Each client works on some of them at a time, so many as are drawn from the range ``loops``.
    """

    def __init__(
        self,
        cluster: Cluster,
        programs: Programs,
        *,
        number: int = PROGRAMS,
        loops: tuple[int, int] = (1, LOOPS_MAX),
    ) -> None:
        self.budget = Budget(number)
        self._loops = loops
        self.clients = cluster.profile.clients
        self._programs = programs
        self._drivers: list[Driver] = []

    @property
    def work_left(self) -> bool:
        return self.budget.left > 0

    @property
    def done(self) -> bool:
        return self.budget.left <= 0 and not any(driver.busy for driver in self._drivers)

    def set_up(self, cluster: Cluster) -> None:
        carry_out_calmly(cluster, self._programs.set_up())

    def program(self, client: SimulatedClient) -> None:
        profile = client.surroundings.profile
        driver = Driver(
            client,
            lambda: self._programs.program(client) if self.budget.take() else None,
            timeout=lambda: client.rng.uniform(profile.timeout_s_min, profile.timeout_s_max),
        )
        self._drivers.append(driver)
        driver.start(client.rng.randint(*self._loops))

    def inspect(self, cluster: Cluster) -> None:
        carry_out_calmly(cluster, self._programs.judge())
        # A judge may have written (swept, say), and that must have reached every member.
        come_to_rest(cluster)
        compare_replicas(cluster)

    def judge(self, cluster: Cluster) -> None:
        """What programs were told they have judged themselves."""


class Driver:
    """Carries out programs on one client, a few at a time, until there is no next one."""

    def __init__(
        self,
        client: SimulatedClient,
        next_program: Callable[[], Steps[None] | None],
        *,
        timeout: Callable[[], float],
    ) -> None:
        """``timeout`` is asked before each minitransaction."""
        self._client = client
        self._next_program = next_program
        self._timeout = timeout
        self._events = client.surroundings.events
        self._drives: dict[int, Drive[None]] = {}
        self._begun = 0

    def start(self, loops: int) -> None:
        """Begin the client's life, with ``loops`` programs at a time."""
        self._client.begin_life()
        for _ in range(loops):
            self._client.later(0.0, self._begin_next)

    @property
    def busy(self) -> bool:
        """Whether some program is not over."""
        return self._client.alive and bool(self._drives)

    def _begin_next(self) -> None:
        steps = self._next_program()
        if steps is None:
            return
        self._begun += 1
        self._drives[self._begun] = Drive(steps, math.inf)
        self._go_on(self._begun)

    def _go_on(self, number: int) -> None:
        """Do the next step of a program."""
        drive = self._drives[number]
        if drive.over:
            self._end(number)
        elif isinstance(drive.step, Pause):
            # The program's clock may be slow; the pause is as long as that clock says.
            seconds = self._client.real_seconds(drive.step.seconds)
            self._client.later(seconds, self._after_pause, number)
        else:
            self._execute(number, drive.step)

    def _end(self, number: int) -> None:
        del self._drives[number]
        self._client.later(0.0, self._begin_next)

    def _after_pause(self, number: int) -> None:
        waited = isinstance(self._drives[number].step, WaitFor)
        self._drives[number].go_on(NO_HINT if waited else NOTHING)
        self._go_on(number)

    def _execute(self, number: int, step: Minitransaction[Any]) -> None:
        try:
            self._client.execute(
                step,
                timeout=self._timeout(),
                # Later, so that one step does not begin within another.
                done=lambda call: self._client.later(0.0, self._learn, number, call),
            )
        except SinfoniaError as error:
            self._fail(number, error)

    def _learn(self, number: int, call: Call) -> None:
        if call.error is not None:
            self._events[f"steps: {type(call.error).__name__}"] += 1
            self._fail(number, call.error)
            return
        assert call.result is not None
        self._events["steps"] += 1
        self._drives[number].go_on(call.result)
        self._go_on(number)

    def _fail(self, number: int, error: SinfoniaError) -> None:
        try:
            self._drives[number].fail(error)
        except GIVEN_UP:
            self._events["programs that gave up"] += 1
            self._end(number)
        else:
            self._go_on(number)


def carry_out_calmly(cluster: Cluster, steps: Steps[None]) -> None:
    """Carry out ``steps`` while nothing goes wrong."""
    left = [steps]
    drivers: list[Driver] = []

    def program(client: SimulatedClient) -> None:
        driver = Driver(
            client, lambda: left.pop() if left else None, timeout=lambda: CALM_TIMEOUT_S
        )
        drivers.append(driver)
        driver.start(1)

    cluster.add_client(program)
    gave_up = cluster.events["programs that gave up"]
    done = cluster.run(CALM_S_MAX, until=lambda: not left and not drivers[0].busy)
    assert done, f"not done within {CALM_S_MAX} s, though nothing went wrong"
    assert cluster.events["programs that gave up"] == gave_up, "gave up without need"


def simulated_steps(
    seed: int, programs: Programs, profile: str = "", *, number: int = PROGRAMS
) -> Simulation:
    """One run; ``profile`` is the name of a targeted one, without it the seed draws any."""
    drawn = draw_profile(seed, profile)
    drawn = replace(drawn, memory_nodes=max(drawn.memory_nodes, MEMORY_NODES_MIN))
    cluster = Cluster(seed, drawn)
    return Simulation(
        cluster,
        FaultsUntilDone(WORK_S_MAX, CALM_S_MAX),
        StepsWorkload(cluster, programs, number=number),
        replay=f"the same test with seed {seed} and profile {profile or '(drawn)'}",
    )
