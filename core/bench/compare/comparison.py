"""Sinfonia beside Redis and etcd: the same work, in the same run, in turns.

What else a machine does changes from second to second.  So the contestants take short turns, one
after the other, for ROUNDS rounds, and a *ratio* is of two turns of one round; its median over the
rounds is what is said, with the lowest and the highest beside it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec

from bench.compare.peers.etcd_load import running_etcd_load
from bench.compare.peers.programs import find_programs
from bench.compare.peers.redis_server import (
    ALWAYS_SYNCED,
    WITHOUT_PERSISTENCE,
    Driven,
    running_redis,
)
from bench.compare.peers.sinfonia_load import SinfoniaLoad
from bench.compare.peers.work import CAPACITY
from sinfonia.operating.measuring.stage import private_cluster, temporary_directory

ROUNDS = 5

# Callers that each wait for their own answer, or connections of redis-benchmark.
CALLERS = 64

# Steps that one connection of redis-benchmark, or one task of ours, has under way at a time.
DEPTH = 32

# The peers, and the goals: our rate as a multiple of theirs.
REDIS, REDIS_ALWAYS, ETCD = "Redis", "Redis, always synced", "etcd"
SINGLE, PIPELINED = "single", "pipelined"


class Throughput(msgspec.Struct, frozen=True, kw_only=True, tag="throughput", tag_field="kind"):
    """One contestant; rates over its turns, latencies and processor times of its median turn.

    A latency is of a step, or of a whole batch where Sinfonia is pipelined.
    """

    system: str
    client: str
    in_flight: int
    per_s: int
    low: int
    high: int
    p50_us: float
    p99_us: float
    server_us: float
    client_us: float


class Ratio(msgspec.Struct, frozen=True, kw_only=True, tag="ratio", tag_field="kind"):
    """How many times as fast as a peer: the median of the rounds, the lowest, the highest."""

    ours: str
    theirs: str
    client: str
    goal: float
    ratio: float
    low: float
    high: float
    reached: bool


class Contestant(NamedTuple):
    """``drive`` is told for how many ``seconds``."""

    system: str
    client: str
    in_flight: int
    drive: Callable[..., Driven]


class Goal(NamedTuple):
    """The rate of ``ours`` should be ``times`` that of ``theirs``: keys of contestants."""

    ours: tuple[str, str]
    theirs: tuple[str, str]
    times: float


# How the minitransactions come about; see peers/sinfonia_load.py.
MADE = {"prepared": True, "built anew": False}


def _ours(mode: str) -> list[tuple[str, str]]:
    return [(f"Sinfonia {mode}", f"{how}, {made}") for how in (SINGLE, PIPELINED) for made in MADE]


GOALS = (
    *(Goal(key, (REDIS, key[1].partition(",")[0]), 1.0) for key in _ours("RAM")),
    *(Goal(key, (REDIS_ALWAYS, key[1].partition(",")[0]), 1.0) for key in _ours("LOG")),
    *(Goal(key, (ETCD, SINGLE), 20.0) for key in _ours("LOG")),
)


def compare_throughput(
    *, seconds: float, directory: Path | None, report: Callable[[msgspec.Struct], None]
) -> None:
    """Measure each contestant for ``seconds``.  Raises ConfigError if a program is missing."""
    find_programs("redis-server", "redis-benchmark", "redis-cli", "etcd")
    with ExitStack() as stack:
        contestants = list(_contestants(stack, directory))
        turn = seconds / ROUNDS
        turns: dict[tuple[str, str], list[Driven]] = {}
        for each in contestants:
            each.drive(
                seconds=turn / 2
            )  # caches fill, and redis-benchmark learns how much to ask for
        for number in range(ROUNDS):
            # There and back, so that no system is always first.
            for each in contestants if number % 2 == 0 else reversed(contestants):
                turns.setdefault((each.system, each.client), []).append(each.drive(seconds=turn))
    for each in contestants:
        report(_throughput(each, turns[each.system, each.client]))
    for goal in GOALS:
        report(ratio_of(goal, turns))


def ratio_of(goal: Goal, turns: Mapping[tuple[str, str], list[Driven]]) -> Ratio:
    """How ``goal`` was met, round by round."""
    pairs = zip(turns[goal.ours], turns[goal.theirs], strict=True)
    ratios = [ours.per_s / theirs.per_s for ours, theirs in pairs]
    middle = median(ratios)
    return Ratio(
        ours=goal.ours[0],
        theirs=goal.theirs[0],
        client=goal.ours[1],
        goal=goal.times,
        ratio=round(middle, 2),
        low=round(min(ratios), 2),
        high=round(max(ratios), 2),
        reached=middle >= goal.times,
    )


def _throughput(contestant: Contestant, turns: list[Driven]) -> Throughput:
    ordered = sorted(turns, key=lambda turn: turn.per_s)
    middle = ordered[len(ordered) // 2]
    return Throughput(
        system=contestant.system,
        client=contestant.client,
        in_flight=contestant.in_flight,
        per_s=round(middle.per_s),
        low=round(ordered[0].per_s),
        high=round(ordered[-1].per_s),
        p50_us=round(middle.p50_us, 1),
        p99_us=round(middle.p99_us, 1),
        server_us=round(middle.server_us, 1),
        client_us=round(middle.client_us, 1),
    )


def _contestants(stack: ExitStack, directory: Path | None) -> Iterator[Contestant]:
    """All of them, started; those that are compared stand beside each other."""
    files = stack.enter_context(temporary_directory(directory))
    redis = {
        REDIS: running_redis(files / "redis", *WITHOUT_PERSISTENCE),
        REDIS_ALWAYS: running_redis(files / "redis-always", *ALWAYS_SYNCED),
    }
    for mode, (peer, server) in zip(("RAM", "LOG"), redis.items(), strict=True):
        theirs = stack.enter_context(server)
        cluster = stack.enter_context(private_cluster(mode, 1, directory, capacity=CAPACITY))
        ours = SinfoniaLoad(cluster)
        for how, depth in ((SINGLE, 1), (PIPELINED, DEPTH)):
            in_flight = CALLERS * depth
            drive = partial(theirs.drive, clients=CALLERS, pipeline=depth)
            yield Contestant(peer, how, in_flight, drive)
            for made, prepared in MADE.items():
                drive = partial(ours.drive, callers=CALLERS, batch=depth, prepared=prepared)
                yield Contestant(f"Sinfonia {mode}", f"{how}, {made}", in_flight, drive)
    etcd = stack.enter_context(running_etcd_load(files / "etcd"))
    yield Contestant(ETCD, SINGLE, CALLERS, partial(etcd.drive, in_flight=CALLERS))
