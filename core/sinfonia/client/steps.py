"""An operation that takes several minitransactions is written once, for every client.

It is a generator that yields what is to be done next and is sent what came of it; it does no I/O
and waits for nothing itself.  ``Cluster.run`` drives it for asyncio and trio,
``BlockingCluster.run`` for threads, the simulator under faults.  Operations call each other with
``yield from``::

    def increment(node: int, address: int) -> Steps[int]:
        t = minitransaction()
        t.add(node, address, 1)
        return (yield from execute(t)).added[0] + 1

    value = await cluster.run(increment(0, 4096))

What ``execute`` raises, as OutcomeUnknown, is raised inside of the generator, at the yield.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sinfonia.errors import SinfoniaError, TimedOut
from sinfonia.minitransaction import Minitransaction, Result

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for ``seconds``."""

    seconds: float


@dataclass(frozen=True, slots=True)
class WaitFor(Pause):
    """Do nothing until a range may have changed, or for ``seconds``.

    A driver that has no watches may take it for the Pause that it is.
    """

    node: int
    address: int
    length: int

    @property
    def range(self) -> tuple[int, int, int]:
        """What ``Cluster.watch`` takes."""
        return self.node, self.address, self.length


Step = Minitransaction[Any] | Pause
Steps = Generator[Step, Result, T]

# What a driver sends after a Pause; and after a WaitFor without a hint.
NOTHING = Result(committed=True)
NO_HINT = Result(committed=False)


class _Unbound:
    """The executor of minitransactions that are steps."""

    def execute(
        self, minitransaction: Minitransaction[Any], *, timeout: float | None = None
    ) -> Result:
        del minitransaction, timeout
        raise RuntimeError("this minitransaction is a step of an operation: see Cluster.run")


_UNBOUND = _Unbound()


def minitransaction(
    *, reads_on_failure: bool = False, lock_wait: float = 0.0, tag: str = ""
) -> Minitransaction[Result]:
    """An empty minitransaction, to be filled and handed to ``execute``."""
    return Minitransaction(_UNBOUND, reads_on_failure, lock_wait=lock_wait, tag=tag)


def execute(minitransaction: Minitransaction[Any]) -> Steps[Result]:
    """Have ``minitransaction`` executed; errors as ``Cluster.execute``."""
    return (yield minitransaction)


def pause(seconds: float) -> Steps[None]:
    """Do nothing for ``seconds``."""
    yield Pause(seconds)


def wait_for_change(node: int, address: int, length: int, seconds: float) -> Steps[bool]:
    """Wait until the range may have changed since the operation last waited for it.

    The first time this arms a watch, and returns True as soon as it is armed: what was read before
    may be old already.  So wait in a loop that reads, decides, and waits::

        while not (yield from is_free(lease)):
            yield from wait_for_change(lease.node, lease.address, 8, seconds=1.0)

    True: it may have changed; False: not within ``seconds``, as far as is known, for a hint may be
    lost.  Where no watch can be had this is a pause.  The watch ends with the operation.
    """
    return (yield WaitFor(seconds, node, address, length)).committed


class Drive(Generic[T]):
    """One operation being carried out, by whatever can execute minitransactions and sleep.

    While it is not ``over``, do ``step``, and ``go_on`` with what came of it, or ``fail``.
    """

    def __init__(self, steps: Steps[T], deadline: float) -> None:
        """Begin; ``deadline`` is in the driver's monotonic seconds."""
        self._steps = steps
        self._deadline = deadline
        self._value: list[T] = []
        self.step: Step = Pause(0.0)
        self._advance(lambda: next(steps))

    @property
    def over(self) -> bool:
        """Whether ``value`` is there."""
        return bool(self._value)

    @property
    def value(self) -> T:
        """What the operation returned."""
        return self._value[0]

    def time_left(self, now: float) -> float:
        """For a minitransaction."""
        return max(0.0, self._deadline - now)

    def pause(self, step: Pause, now: float) -> float:
        """How long to sleep.  Raises TimedOut, in the operation too, if that is too long."""
        if now + step.seconds > self._deadline:
            self._steps.close()
            raise TimedOut("the operation would have had to wait beyond its deadline")
        return step.seconds

    def patience(self, step: WaitFor, now: float) -> float:
        """How long to wait for a hint."""
        return min(step.seconds, self.time_left(now))

    def after_wait(self, now: float, *, changed: bool) -> Result:
        """What to go on with after a WaitFor.  Raises TimedOut, as ``pause``, if it was in vain."""
        if not changed and now >= self._deadline:
            self._steps.close()
            raise TimedOut("the operation waited for a change until its deadline")
        return NOTHING if changed else NO_HINT

    def go_on(self, result: Result) -> None:
        """The step was done.  Raises what the operation raises."""
        self._advance(lambda: self._steps.send(result))

    def fail(self, error: SinfoniaError) -> None:
        """The step raised.  Raises what the operation raises."""
        self._advance(lambda: self._steps.throw(error))

    def close(self) -> None:
        """It is not driven on: if the operation is not over its ``finally`` blocks run now."""
        self._steps.close()

    def _advance(self, resume: Callable[[], Step]) -> None:
        try:
            self.step = resume()
        except StopIteration as end:
            self._value.append(end.value)
