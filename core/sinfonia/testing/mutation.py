"""A mutation takes one rule out of the real code, for as long as a context lasts."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutation:
    """``broken()`` is the context in which ``rule`` is broken.

    ``profile`` names the targeted profile in whose runs that shows; without one it shows in any.
    """

    name: str
    rule: str
    profile: str
    broken: Callable[[], AbstractContextManager[None]]


def mutation(*, profile: str = "") -> Callable[[Callable[[], Iterator[None]]], Mutation]:
    """Make a mutation of a function that breaks the rule in its docstring until it goes on."""

    def make(break_rule: Callable[[], Iterator[None]]) -> Mutation:
        name = break_rule.__name__.replace("_", "-")
        assert break_rule.__doc__ is not None
        return Mutation(name, break_rule.__doc__, profile, contextmanager(break_rule))

    return make
