"""The runs that every change must pass, in chunks, and what happened in each, counted once.

Tests run a chunk for its promises; others ask, over all chunks, whether everything that must be met
was met.  The second kind runs nothing again: what a chunk came to is in a file of a directory that
all test processes share.  A chunk that failed has none, and fails again for the next one that asks.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sinfonia.checking.history import Operation
from sinfonia.simulation.aimed_profiles import DAMAGED
from sinfonia.simulation.profile import AIMED, WITH_REPLICAS, WITHOUT_REPLICAS
from sinfonia.simulation.simulator import Report, Simulation
from sinfonia.simulation.workloads.minitransactions import simulated

# Of so many seeds each; those of the first are soon over.
SEEDS_WITHOUT_REPLICAS = 320
SEEDS_WITH_REPLICAS = 1000
SEEDS_AIMED = 5
SEEDS_DAMAGED = 23
SEEDS_DAMAGED_FIRST = 3

# Some seconds for each chunk, so that two processes end at about the same time.  Every number of
# runs below is a multiple of it.
CHUNK = 20

# The least that a run is asked to do, besides the two reads of everything at its end.
MINITRANSACTIONS_MIN = 50


class Chunk(NamedTuple):
    """Runs of one profile, seed by seed."""

    profile: str
    first: int
    runs: int

    def __str__(self) -> str:
        return f"{self.profile}-{self.first}-to-{self.first + self.runs - 1}"


def _chunks_from(profile: str, first: int, runs: int) -> list[Chunk]:
    return [Chunk(profile, each, CHUNK) for each in range(first, first + runs, CHUNK)]


PLAIN_CHUNKS = [
    *_chunks_from(WITHOUT_REPLICAS, 1, SEEDS_WITHOUT_REPLICAS),
    *_chunks_from(WITHOUT_REPLICAS, 1000, 60),
]
REPLICATED_CHUNKS = [
    *_chunks_from(WITH_REPLICAS, 1, SEEDS_WITH_REPLICAS),
    *_chunks_from(WITH_REPLICAS, 2000, 80),
    *_chunks_from("replicas-three-managers", 1, 40),
]
AIMED_FIRST = [Chunk(profile, 1, 1) for profile in AIMED]
AIMED_MORE = [Chunk(profile, 2, SEEDS_AIMED - 1) for profile in AIMED]
DAMAGED_FIRST = [Chunk(profile, 1, SEEDS_DAMAGED_FIRST) for profile in DAMAGED]
DAMAGED_MORE = [
    Chunk(profile, SEEDS_DAMAGED_FIRST + 1, SEEDS_DAMAGED - SEEDS_DAMAGED_FIRST)
    for profile in DAMAGED
]


class CountedRuns:
    """What happened in chunks, counted; each chunk is run once, by the first that asks for it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def of(self, chunk: Chunk) -> Counter[str]:
        """All runs of a chunk; raises SimulationFailure."""
        path = self._directory / f"{chunk}.json"
        if path.exists():
            return Counter(json.loads(path.read_text("utf-8")))
        counts: Counter[str] = Counter()
        for seed in range(chunk.first, chunk.first + chunk.runs):
            counts += _count(simulated(seed, chunk.profile))
        # Whole or not at all, since another process may look at any moment.
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(counts), "utf-8")
        unfinished.replace(path)
        return counts

    def of_all(self, chunks: Iterable[Chunk]) -> Counter[str]:
        """All runs of many chunks."""
        counts: Counter[str] = Counter()
        for chunk in chunks:
            counts += self.of(chunk)
        return counts


def _count(simulation: Simulation) -> Counter[str]:
    """Events, outcomes, traffic and items of one run; raises SimulationFailure."""
    report = simulation.run()
    damaged = report.profile.last_copies_rate > 0  # which ends a run before its work is done
    assert damaged or report.outcomes.total() >= MINITRANSACTIONS_MIN
    counts = report.events + _items(simulation.cluster.recorder.operations)
    counts += {f"outcome {outcome.value}": n for outcome, n in report.outcomes.items()}
    counts += _traffic(report)
    counts[f"mode {report.profile.mode}"] += 1
    return counts


def _traffic(report: Report) -> Counter[str]:
    traffic = report.traffic
    return Counter({"messages lost": traffic.lost, "messages replayed": traffic.replayed})


def _items(operations: Iterable[Operation]) -> Counter[str]:
    """What became of minitransactions with items that are more than bytes."""
    seen: Counter[str] = Counter()
    for operation in operations:
        for item in (*operation.compares, *operation.updates):
            seen[f"{type(item).__name__} {operation.outcome.value}"] += 1
        seen["full rings"] += bool(operation.full)
        seen["updates apart"] += len({update.node for update in operation.updates}) > 1
    return seen
