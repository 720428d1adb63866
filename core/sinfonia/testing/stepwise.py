"""Operations side by side on a model, each step chosen by the test, and so is what comes of it.

Between any two steps of an operation anything may happen; a test, or hypothesis for it, decides
what does.  What is worst for a client is here as well: a minitransaction whose outcome is unknown
may be executed much later, when its client has long gone on.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeVar

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.steps import NO_HINT, NOTHING, Drive, Pause, Steps, WaitFor
from sinfonia.errors import Contended, OutcomeUnknown, SinfoniaError
from sinfonia.minitransaction import Minitransaction, Result
from sinfonia.testing.model import apply_minitransaction

T = TypeVar("T")

# More steps than any operation takes that nothing keeps from ending.
STEPS_MAX = 10_000


class Fate(Enum):
    """What comes of one step."""

    DONE = "done"
    NOT_EXECUTED = "a definite error: it did not happen"
    UNKNOWN_DONE = "it happened, and the client was not told"
    UNKNOWN_NEVER = "it did not happen, and the client was not told"
    UNKNOWN_LATE = "the client was not told, and it may happen later"


FAULTS = tuple(fate for fate in Fate if fate is not Fate.DONE)


@dataclass(eq=False)
class Actor(Generic[T]):
    """One operation under way; ``error`` is what it ended with, if it raised."""

    drive: Drive[T]
    error: SinfoniaError | None = None
    abandoned: bool = False
    pauses: float = 0.0

    @property
    def over(self) -> bool:
        """Whether it takes no steps any more."""
        return self.drive.over or self.error is not None or self.abandoned

    @property
    def value(self) -> T:
        """What it returned; raises what it raised."""
        if self.error is not None:
            raise self.error
        return self.drive.value


@dataclass
class Stage:
    """Memory nodes, operations on them, and minitransactions that are late; ``now`` in seconds."""

    memory_nodes: int = 1
    capacity: int = 64 * 1024
    now: float = 0.0
    late: list[Minitransaction[Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.memory = {
            MemoryNodeId(node): bytearray(self.capacity) for node in range(self.memory_nodes)
        }

    def begin(self, steps: Steps[T]) -> Actor[T]:
        """An operation that has taken no step as yet."""
        return Actor(Drive(steps, float("inf")))

    def step(self, actor: Actor[Any], fate: Fate = Fate.DONE) -> None:
        """Let it take its next step; a pause makes time pass for all operations."""
        assert not actor.over
        step = actor.drive.step
        try:
            if isinstance(step, Pause):
                self.now += step.seconds
                actor.pauses += step.seconds
                actor.drive.go_on(NO_HINT if isinstance(step, WaitFor) else NOTHING)
            elif fate is Fate.DONE:
                actor.drive.go_on(self.execute(step))
            else:
                actor.drive.fail(self._error(step, fate))
        except SinfoniaError as error:
            actor.error = error

    def finish(self, actor: Actor[T]) -> T:
        """Let it take all its steps, without a fault; what it returned."""
        for _ in range(STEPS_MAX):
            if actor.over:
                return actor.value
            self.step(actor)
        raise AssertionError("the operation does not end")

    def run(self, steps: Steps[T]) -> T:
        """Carry out an operation, while nothing else happens."""
        return self.finish(self.begin(steps))

    def abandon(self, actor: Actor[Any]) -> None:
        """The client of this operation is dead."""
        actor.abandoned = True

    def arrive(self, index: int) -> Result:
        """A late minitransaction is executed after all."""
        return self.execute(self.late.pop(index))

    def execute(self, minitransaction: Minitransaction[Any]) -> Result:
        """Execute it now."""
        return apply_minitransaction(self.memory, minitransaction)

    def _error(self, step: Minitransaction[Any], fate: Fate) -> SinfoniaError:
        if fate is Fate.NOT_EXECUTED:
            return Contended("as the test will have it")
        if fate is Fate.UNKNOWN_DONE:
            self.execute(step)
        elif fate is Fate.UNKNOWN_LATE:
            self.late.append(step)
        return OutcomeUnknown("as the test will have it", None)
