"""Section 7.1.3: "across minitransactions, spread load; within a minitransaction, focus load"."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench.scale.costs import RECORDED, Costs
from bench.scale.experiment import Point, run
from bench.scale.measure import measure

pytestmark = pytest.mark.slow

DEADLINE = 60.0
VOTES = 4_000
FIGURE = Path(__file__).parents[2] / "bench" / "figures" / "scalability.jsonl"


def point(load: str, memory_nodes: int, *, seed: int = 1, costs: Costs = RECORDED) -> Point:
    found = run(load, memory_nodes=memory_nodes, costs=costs, seed=seed, votes_min=VOTES)
    assert found is not None
    return found


def test_with_spread_2_a_larger_system_does_more() -> None:
    small, middle, large = [point("2", size) for size in (2, 4, 8)]
    assert middle.relative_to(small).efficiency > 0.7
    assert large.relative_to(middle).efficiency > 0.7


def test_with_spread_all_a_larger_system_does_no_more() -> None:
    small, middle, large = [point("all", size) for size in (2, 4, 8)]
    assert middle.minitransactions_per_s < 1.2 * small.minitransactions_per_s
    assert large.minitransactions_per_s < 1.2 * middle.minitransactions_per_s


def test_one_phase_takes_two_messages_and_two_phases_take_four_for_each_participant() -> None:
    """Figure 4; and Forget, of which one can carry many tids."""
    assert point("1", 4).messages_per_minitransaction == pytest.approx(2, abs=0.02)
    two = point("2", 4)
    assert 8 <= two.messages_per_minitransaction <= 10
    assert two.batches_per_minitransaction < two.messages_per_minitransaction / 2


def test_a_seed_fixes_every_number_and_another_seed_changes_some() -> None:
    assert point("2", 4) == point("2", 4)
    assert point("2", 4) != point("2", 4, seed=2)


def test_no_process_is_busy_for_longer_than_time_lasts() -> None:
    for load in ("1", "2", "all"):
        found = point(load, 4)
        shares = (found.memory_nodes_busy, found.application_nodes_busy)
        assert all(0 < share <= 1.02 for share in shares)  # a wake-up may straddle the end
        assert max(shares) > 0.8, "nothing was saturated, so that nothing was measured"


def test_slower_memory_nodes_serve_less_where_they_are_what_limits() -> None:
    slower = msgspec.structs.replace(RECORDED.memory_node, exec_prepare_us=30.0)
    costs = msgspec.structs.replace(RECORDED, memory_node=slower)
    usual = point("2", 4).minitransactions_per_s
    assert point("2", 4, costs=costs).minitransactions_per_s < usual / 2


@pytest.mark.parametrize(("load", "memory_nodes"), [("2", 1), ("all-16", 32)])
def test_a_load_that_does_not_fit_a_size_has_no_point(load: str, memory_nodes: int) -> None:
    assert run(load, memory_nodes=memory_nodes, costs=RECORDED, seed=1) is None


def test_measured_costs_are_more_than_nothing() -> None:
    costs = measure()
    assert costs.memory_node.batch_us > 0
    assert costs.memory_node.exec_prepare_us > 0
    assert costs.application_node.batch_us > 0
    assert costs.application_node.message_us > 0


def test_the_command_prints_its_costs_and_takes_them_again(tmp_path: Path) -> None:
    first = scale("--load", "1", "--memory-nodes", "2")
    kept = tmp_path / "kept.jsonl"
    kept.write_text(first, encoding="utf-8")
    assert scale("--load", "1", "--memory-nodes", "2", "--costs", str(kept)) == first


def test_costs_that_cannot_be_read_are_one_clear_error(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    arguments = [sys.executable, "-m", "bench.scale", "--costs", str(missing)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert str(missing) in done.stderr


def test_the_figure_can_be_drawn_from_the_lines_that_were_kept(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="`make bench-scale` installs it")
    png = tmp_path / "figure.png"
    program = Path(__file__).parents[2] / "bench" / "plot_scalability.py"
    subprocess.run([sys.executable, program, FIGURE, png], timeout=DEADLINE, check=True)
    assert png.read_bytes().startswith(b"\x89PNG")


def scale(*arguments: str) -> str:
    command = [sys.executable, "-m", "bench.scale", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True)
    return done.stdout
