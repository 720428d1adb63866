"""Operations of several minitransactions in the simulator: programs of steps under every fault.

A program is a ``Steps`` generator; each client works on a few of them at a time.  What a program
has seen it keeps in whatever its test gave it, and at the end, when everything is mended and at
rest, a judge reads what is in the cluster: before all memory nodes lose their power, and after.
A client that is killed drops its programs where they are.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sinfonia.client.steps import NO_HINT, NOTHING, Drive, Pause, Steps, WaitFor
from sinfonia.errors import NotExecuted, OutcomeUnknown, SinfoniaError
from sinfonia.minitransaction import Minitransaction
from sinfonia.protocol.attempts import Call
from sinfonia.simulation.client import LATE_MAX_S, Asked, SimulatedClient
from sinfonia.simulation.faults import Faults
from sinfonia.simulation.network import Weather
from sinfonia.simulation.profile import Profile
from sinfonia.simulation.simulator import CLIENT_DEATHS_MAX, LOOPS_MAX, Simulation

# A timeout that only somebody who never dies and whom nothing strikes can rely on.
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


class StepsClient(SimulatedClient):
    """An application node that works on programs; ``rng`` and ``name`` are for them, too."""

    calm = False
    next_program: Callable[["StepsClient"], Steps[None] | None]

    def work(self, next_program: Callable[["StepsClient"], Steps[None] | None], loops: int) -> None:
        """Take ``loops`` programs at a time from ``next_program``, until it returns None."""
        self.next_program = next_program
        self.drives: dict[int, Drive[None]] = {}
        self._begun = 0
        self.begin_life()
        for _ in range(loops):
            self.later(0.0, self._begin_next)

    @property
    def true_now(self) -> float:
        """Virtual seconds that are the same for everybody; no program may act on them."""
        return self.surroundings.scheduler.now

    @property
    def busy(self) -> bool:
        """Whether some program is not over."""
        return self.alive and bool(self.drives)

    def on_killed(self) -> None:
        self.drives.clear()
        super().on_killed()

    def _begin_next(self) -> None:
        steps = self.next_program(self)
        if steps is None:
            return
        self._begun += 1
        drive = Drive(steps, math.inf)
        self.drives[self._begun] = drive
        self._go_on(self._begun)

    def _go_on(self, number: int) -> None:
        """Do the next step of a program."""
        drive = self.drives[number]
        if drive.over:
            del self.drives[number]
            self.later(0.0, self._begin_next)
        elif isinstance(drive.step, Pause):
            # The program's clock may be slow; the pause is as long as that clock says.
            self.later(self.real_seconds(drive.step.seconds), self._after_pause, number)
        else:
            self._execute_step(number, drive.step)

    def _after_pause(self, number: int) -> None:
        waited = isinstance(self.drives[number].step, WaitFor)
        self.drives[number].go_on(NO_HINT if waited else NOTHING)
        self._go_on(number)

    def _execute_step(self, number: int, step: Minitransaction[Any]) -> None:
        profile = self.surroundings.profile
        timeout = CALM_TIMEOUT_S
        if not self.calm:
            timeout = self.rng.uniform(profile.timeout_s_min, profile.timeout_s_max)
        asked = Asked(number, step, self.now + timeout)
        try:
            call, sends = self.coordinator.begin(step, now=self.now, deadline=asked.deadline)
        except SinfoniaError as error:
            self._fail(number, error)
            return
        self.unfinished[number] = asked
        call.waiter = asked
        self._carry_out(sends)

    def _on_finished(self, call: Call) -> None:
        asked: Asked = call.waiter
        late = self.now - asked.deadline
        assert self._was_paused or late <= LATE_MAX_S, f"a step ended {late:.3f} s too late"
        del self.unfinished[asked.number]
        # Later, so that one step does not begin within another.
        self.later(0.0, self._learn, asked.number, call)

    def _learn(self, number: int, call: Call) -> None:
        if call.error is not None:
            self.surroundings.events[f"steps: {type(call.error).__name__}"] += 1
            self._fail(number, call.error)
            return
        assert call.result is not None
        self.surroundings.events["steps"] += 1
        self.drives[number].go_on(call.result)
        self._go_on(number)

    def _fail(self, number: int, error: SinfoniaError) -> None:
        try:
            self.drives[number].fail(error)
        except GIVEN_UP:
            self.surroundings.events["programs that gave up"] += 1
            del self.drives[number]
            self.later(0.0, self._begin_next)
        else:
            self._go_on(number)


class StepsSimulation(Simulation):
    """One cluster, one seed, one run of programs.

    ``setup`` prepares the memory before anything goes wrong.  ``program`` is asked for ``programs``
    programs in all.  ``judge`` asserts what must hold in the end; it runs twice, so what it writes
    must not change its verdict.
    """

    def __init__(
        self,
        seed: int,
        profile: str = "",
        *,
        setup: Callable[[], Steps[None]],
        program: Callable[[StepsClient], Steps[None]],
        judge: Callable[[], Steps[None]],
        programs: int = PROGRAMS,
    ) -> None:
        """``profile`` is the name of a targeted one; without it the seed draws any."""
        super().__init__(seed, profile)
        self._setup = setup
        self._program = program
        self._judge_steps = judge
        self._left_to_do = programs

    def _draw_profile(self) -> Profile:
        profile = super()._draw_profile()
        return replace(profile, memory_nodes=max(profile.memory_nodes, MEMORY_NODES_MIN))

    def _work(self) -> None:
        for manager in self.managers:
            manager.start()
        for node in self.nodes:
            node.start()
        weather, self.surroundings.network.weather = self.surroundings.network.weather, Weather()
        self._calmly(self._setup())
        self.surroundings.network.weather = weather
        if self.operator is not None:
            self.operator.start()
        for _ in range(self.profile.clients):
            self._add_client()
        faults = Faults(
            self.surroundings,
            seed=self.seed,
            nodes=self.nodes,
            managers=self.managers,
            clients=self.clients,
        )
        until = self.scheduler.now + WORK_S_MAX
        self.scheduler.run(until=until, stop=self._nothing_left_to_do)
        for client in self.clients:
            client.mortal = False
        faults.stop()
        if self.operator is not None:
            self.operator.stop()
        self.surroundings.network.weather = Weather()
        # What could not be done while everything failed must be done when nothing does.
        until = self.scheduler.now + CALM_S_MAX
        done = self.scheduler.run(until=until, stop=self._nothing_left_to_do)
        assert done, f"the work was not done within {CALM_S_MAX} s, though nothing went wrong"

    def _nothing_left_to_do(self) -> bool:
        return self._left_to_do <= 0 and not any(
            isinstance(client, StepsClient) and client.busy for client in self.clients
        )

    def _next_program(self, client: StepsClient) -> Steps[None] | None:
        return self._program(client) if self._next_work() else None

    def _make_client(self) -> StepsClient:
        name = f"client{self._clients_made}"
        self._clients_made += 1
        client = StepsClient(
            self.surroundings,
            name,
            self._chance(name),
            directory=self._directory(),
            workload=self.workload,
            recorder=self.recorder,
            next_work=self._next_work,
            on_death=self._on_client_death,
        )
        self.clients.append(client)
        return client

    def _add_client(self) -> SimulatedClient:
        client = self._make_client()
        client.mortal = self.surroundings.events["clients killed"] < CLIENT_DEATHS_MAX
        client.work(self._next_program, client.rng.randint(1, LOOPS_MAX))
        return client

    def _calmly(self, steps: Steps[None]) -> None:
        """Carry out ``steps`` while nothing goes wrong."""
        client = self._make_client()
        client.mortal, client.calm = False, True
        left = [steps]
        client.work(lambda _: left.pop() if left else None, 1)
        until = self.scheduler.now + CALM_S_MAX
        gave_up = self.surroundings.events["programs that gave up"]
        done = self.scheduler.run(until=until, stop=lambda: not left and not client.busy)
        assert done, f"not done within {CALM_S_MAX} s, though nothing went wrong"
        assert self.surroundings.events["programs that gave up"] == gave_up, "gave up without need"

    def _read_everything(self) -> None:
        self._calmly(self._judge_steps())

    def _lose_power(self) -> None:
        # A judge may have written (swept, say), and that must have reached everybody.
        self._come_to_rest()
        self._compare_replicas()
        super()._lose_power()

    def _judge(self) -> None:
        """The judge has been heard."""

    def _how_to_replay(self) -> str:
        return f"the same test with seed {self.seed} and profile {self._profile_name or '(drawn)'}"
