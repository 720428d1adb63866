"""A mutation takes one rule out of the real code, for as long as a context lasts."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from sinfonia.simulation.profile import WITHOUT_REPLICAS


@dataclass(frozen=True, slots=True)
class Mutation:
    """``broken()`` is the context in which ``rule`` is broken.

    ``profile`` names the profile in whose runs that shows, by default any without replicas;
    ``seed`` is the first one tried: one that shows it, where it would take many to find one.
    """

    name: str
    rule: str
    profile: str
    broken: Callable[[], AbstractContextManager[None]]
    seed: int = 1


def mutation(
    *, profile: str = WITHOUT_REPLICAS, seed: int = 1
) -> Callable[[Callable[[], Iterator[None]]], Mutation]:
    """Make a mutation of a function that breaks the rule in its docstring until it goes on."""

    def make(break_rule: Callable[[], Iterator[None]]) -> Mutation:
        name = break_rule.__name__.replace("_", "-")
        assert break_rule.__doc__ is not None
        return Mutation(name, break_rule.__doc__, profile, contextmanager(break_rule), seed)

    return make
