"""Which records belong to a moment, and that every moment is a possible state of the cluster."""

import random
from pathlib import Path

import pytest

from sinfonia.addresses import MemoryNodeId
from sinfonia.backup.archive import Backup
from sinfonia.backup.cut import LogCut, committed
from sinfonia.minitransaction import WriteItem
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.messages import Vote, Voted
from sinfonia.protocol.records import (
    Batch,
    DecidedState,
    OnePhase,
    ParticipantState,
    Prepared,
    Record,
    Stamp,
    encode_body,
)
from sinfonia.simulation.workloads.bank import check_moment, check_moments, simulated_bank

A, B, C = (MemoryNodeId(number) for number in range(3))
TID = Tid(0, 7, 1)


def write(counter: int) -> OnePhase:
    return OnePhase(7, 0, counter, 0, [WriteItem(0, b"x")])


def batch(first: int, *records: Record) -> Batch:
    return Batch(first, len(records), encode_body(list(records)))


def prepared(*participants: MemoryNodeId) -> Prepared:
    return Prepared(TID, 0, list(participants), [], [])


def decided(*participants: MemoryNodeId) -> DecidedState:
    return DecidedState(TID, list(participants), Voted(TID.counter, Vote.OK))


# --- the cut of one log --------------------------------------------------------------------------


def test_a_cut_ends_with_the_last_stamp_at_its_moment() -> None:
    cut = LogCut(20, 0)
    [kept] = cut.take(batch(1, write(1), Stamp(10), write(2), Stamp(20), write(3), Stamp(21)))
    assert (kept.first, kept.last, cut.last) == (1, 4, 4)
    assert cut.over


def test_a_cut_is_not_over_before_a_later_stamp_is_seen() -> None:
    cut = LogCut(20, 0)
    cut.take(batch(1, write(1), Stamp(20)))
    assert not cut.over


def test_records_without_a_stamp_wait_for_it() -> None:
    cut = LogCut(20, 0)
    assert cut.take(batch(1, write(1), write(2))) == []
    assert cut.last == 0
    kept = cut.take(batch(3, Stamp(20), write(3)))
    assert [(each.first, each.last) for each in kept] == [(1, 2), (3, 3)]


def test_records_whose_stamp_is_later_are_left_out() -> None:
    cut = LogCut(20, 4)
    assert cut.take(batch(5, write(1))) == []
    assert cut.take(batch(6, Stamp(21))) == []
    assert cut.over
    assert cut.last == 4
    assert cut.take(batch(7, Stamp(5))) == []


# --- what has committed --------------------------------------------------------------------------


def test_what_all_participants_prepared_has_committed() -> None:
    state = ParticipantState(in_doubt=[prepared(A, B)])
    assert committed({A: state, B: state, C: ParticipantState()}) == {TID}


def test_what_one_participant_has_not_prepared_has_not_committed() -> None:
    state = ParticipantState(in_doubt=[prepared(A, B)])
    assert committed({A: state, B: ParticipantState()}) == frozenset()


def test_what_one_participant_knows_to_have_committed_has() -> None:
    in_doubt = ParticipantState(in_doubt=[prepared(A, B)])
    settled = ParticipantState(decided=[decided(A, B)])
    assert committed({A: in_doubt, B: settled}) == {TID}


def test_what_a_memory_node_outside_of_the_backup_takes_part_in_has_not_committed() -> None:
    assert committed({A: ParticipantState(in_doubt=[prepared(A, B)])}) == frozenset()


# --- whole clusters ------------------------------------------------------------------------------

MOMENTS = 12


@pytest.mark.parametrize("seed", range(6))
def test_any_moment_is_consistent_with_clocks_that_are_wrong_and_nodes_that_crash(
    seed: int, tmp_path: Path
) -> None:
    root = tmp_path / "backup"
    simulated_bank(seed, root, increments=2).run()
    figures = check_moments(root, random.Random(seed), MOMENTS)
    assert figures["undecided"] > figures["committed"] > 0, "nothing was there to be decided"
    assert figures["relayed"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 300, 50))
def test_any_moment_is_consistent_for_many_seeds(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + 50):
        root = tmp_path / str(seed)
        simulated_bank(seed, root, increments=3).run()
        check_moments(root, random.Random(seed), MOMENTS)


@pytest.mark.parametrize("seed", range(4))
def test_a_cluster_that_keeps_no_log_is_backed_up_as_of_one_moment(
    seed: int, tmp_path: Path
) -> None:
    root = tmp_path / "backup"
    simulated_bank(seed, root, mode="RAM", crashes=False).run()
    first, last = Backup(root).moments
    assert first == last
    assert check_moment(root, first)["twins"] > 0
