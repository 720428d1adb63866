"""A mutation takes one rule out of the real code, for as long as a context lasts.

It is a function whose docstring is the rule.  Where one function of the real code is replaced, the
mutation is that replacement (``instead_of``); else it is a generator that breaks the rule until it
goes on (``mutation``).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from sinfonia.simulation.profile import WITHOUT_REPLICAS


@dataclass(frozen=True, slots=True)
class Mutation:
    """``broken()`` is the context in which ``rule`` is broken.

    ``profile`` names the profile in whose runs that shows, by default any without replicas;
    ``seeds`` are runs that have shown it.
    """

    name: str
    rule: str
    profile: str
    broken: Callable[[], AbstractContextManager[None]]
    seeds: tuple[int, ...]


def mutation(
    *, profile: str = WITHOUT_REPLICAS, seeds: tuple[int, ...]
) -> Callable[[Callable[[], Iterator[None]]], Mutation]:
    """Make a mutation of a function that breaks the rule in its docstring until it goes on."""

    def make(break_rule: Callable[[], Iterator[None]]) -> Mutation:
        return _named(break_rule, contextmanager(break_rule), profile, seeds)

    return make


def instead_of(
    owner: object, name: str, *, profile: str = WITHOUT_REPLICAS, seeds: tuple[int, ...]
) -> Callable[[Callable[..., object]], Mutation]:
    """Make a mutation of a function that takes the place of ``owner.name``.

    The function is given what it replaces before all other arguments.
    """

    def make(replacement: Callable[..., object]) -> Mutation:
        @contextmanager
        def broken() -> Iterator[None]:
            original = getattr(owner, name)

            def replaced(*arguments: object, **named: object) -> object:
                return replacement(original, *arguments, **named)

            with patch.object(owner, name, replaced):
                yield

        return _named(replacement, broken, profile, seeds)

    return make


def _named(
    function: Callable[..., object],
    broken: Callable[[], AbstractContextManager[None]],
    profile: str,
    seeds: tuple[int, ...],
) -> Mutation:
    assert function.__doc__ is not None
    assert seeds, "no run is known that shows it"
    return Mutation(function.__name__.replace("_", "-"), function.__doc__, profile, broken, seeds)
