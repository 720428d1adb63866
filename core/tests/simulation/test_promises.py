"""The real machines under every fault, seed by seed; what fails here says how to replay it."""

import pytest

from sinfonia.simulation.chunks import (
    AIMED_FIRST,
    AIMED_MORE,
    DAMAGED_FIRST,
    DAMAGED_MORE,
    PLAIN_CHUNKS,
    REPLICATED_CHUNKS,
    Chunk,
    CountedRuns,
)

# Some of them are enough for `make check`, which is to take less than a minute.
QUICK = len(PLAIN_CHUNKS) // 8
QUICK_AIMED = AIMED_FIRST[::4]


@pytest.mark.parametrize("chunk", PLAIN_CHUNKS[:QUICK], ids=str)
def test_no_fault_breaks_a_promise(chunk: Chunk, counted_runs: CountedRuns) -> None:
    counted_runs.of(chunk)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", PLAIN_CHUNKS[QUICK:], ids=str)
def test_no_fault_breaks_a_promise_in_many_runs(chunk: Chunk, counted_runs: CountedRuns) -> None:
    counted_runs.of(chunk)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", REPLICATED_CHUNKS, ids=str)
def test_no_fault_breaks_a_promise_of_replicated_memory_nodes(
    chunk: Chunk, counted_runs: CountedRuns
) -> None:
    counted_runs.of(chunk)


@pytest.mark.parametrize(
    "chunk",
    [
        chunk if chunk in QUICK_AIMED else pytest.param(chunk, marks=pytest.mark.slow)
        for chunk in AIMED_FIRST
    ],
    ids=str,
)
def test_no_aimed_fault_breaks_a_promise(chunk: Chunk, counted_runs: CountedRuns) -> None:
    counted_runs.of(chunk)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", AIMED_MORE, ids=str)
def test_no_aimed_fault_breaks_a_promise_in_some_more_runs(
    chunk: Chunk, counted_runs: CountedRuns
) -> None:
    counted_runs.of(chunk)


@pytest.mark.parametrize("chunk", DAMAGED_FIRST, ids=str)
def test_no_damage_to_what_was_synced_breaks_a_promise(
    chunk: Chunk, counted_runs: CountedRuns
) -> None:
    counted_runs.of(chunk)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", DAMAGED_MORE, ids=str)
def test_no_damage_breaks_a_promise_in_some_more_runs(
    chunk: Chunk, counted_runs: CountedRuns
) -> None:
    assert not counted_runs.of(chunk)["undecided"], "the checker gives up too often"
