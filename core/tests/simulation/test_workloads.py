"""A workload is what its protocol says: the example in the documentation runs, and judges."""

import textwrap
from collections.abc import Callable

import pytest

from sinfonia.client.steps import Steps, execute, minitransaction, pause
from sinfonia.simulation import workload
from sinfonia.simulation.client import SimulatedClient
from sinfonia.simulation.simulator import SimulationFailure
from sinfonia.simulation.workloads.steps import Programs, simulated_steps

SEEDS = range(1, 6)


@pytest.fixture
def increments() -> Callable[[], Programs]:
    """The class in the docstring, with the last line, which runs it, left out."""
    assert workload.__doc__ is not None
    lines = workload.__doc__.splitlines()
    begin = lines.index("    class Increments:")
    end = next(i for i, line in enumerate(lines) if "simulated_steps(" in line)
    names = {
        "SimulatedClient": SimulatedClient,
        "Steps": Steps,
        "execute": execute,
        "minitransaction": minitransaction,
        "pause": pause,
    }
    exec(textwrap.dedent("\n".join(lines[begin:end])), names)  # noqa: S102 - our own text
    made: Callable[[], Programs] = names["Increments"]  # type: ignore[assignment]
    return made


@pytest.mark.parametrize("seed", SEEDS)
def test_the_example_of_a_workload_keeps_its_promise(
    increments: Callable[[], Programs], seed: int
) -> None:
    programs = increments()
    report = simulated_steps(seed, programs).run()
    assert programs.acknowledged > 0  # type: ignore[attr-defined]
    assert report.events["steps"] >= programs.acknowledged  # type: ignore[attr-defined]


def test_a_judge_that_objects_fails_the_run(increments: Callable[[], Programs]) -> None:
    programs = increments()
    programs.acknowledged = 1_000  # type: ignore[attr-defined]
    with pytest.raises(SimulationFailure, match="the same test with seed 1"):
        simulated_steps(1, programs).run()
