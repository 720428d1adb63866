"""A log on real memory nodes: several clients, a ring that is often full, and a fail-over."""

import os
import signal
import threading
import time
import zlib
from collections.abc import Callable

import pytest

from groupcomm.checking.check import check
from groupcomm.checking.history import (
    Acknowledged,
    AnyEvent,
    Delivered,
    Position,
    Sent,
    Settled,
)
from groupcomm.log.comb import Comb
from groupcomm.log.creation import create_log
from groupcomm.log.layout import Log, Shape
from groupcomm.log.turns import Turn
from groupcomm.log.writers import Claim, claim, look
from sinfonia import BlockingCluster, NotExecuted, OutcomeUnknown, connect_blocking
from sinfonia.testing.plugin import ClusterFactory
from sinfonia.testing.real_cluster import primary_of, real_cluster, wait_until_well

pytestmark = pytest.mark.network

LOG = Log(0, 1 << 20, Shape(slots=20, slot_bytes=512, writers=4, area_bytes=20_000))

PROGRAMS = 4
PARTS = 150
SIZES = (0, 8, 300, 3000, 19_000)

# A program that has not received everything by then never will.
PATIENCE = 60.0


class Program:
    """One thread that posts, and takes turns until it has received what all have posted."""

    def __init__(self, cluster: BlockingCluster, claimed: Claim) -> None:
        self.cluster = cluster
        self.comb = Comb(LOG, claimed, lambda: time.time_ns() // 1000)
        self.name = f"{claimed.writer}/{claimed.record.generation}"
        self.events: list[AnyEvent] = []
        self.received = 0
        self.halfway = threading.Event()

    def run(self) -> None:
        posted = 0
        deadline = time.monotonic() + PATIENCE
        while self.received < PROGRAMS * PARTS or self.comb.due:
            assert time.monotonic() < deadline, f"{self.name} received {self.received} parts"
            if posted < PARTS and self.comb.posted < 8:
                self.post(posted)
                posted += 1
            try:
                turn = self.cluster.run(self.comb.turn(), timeout=1.0)
            except (NotExecuted, OutcomeUnknown):
                continue
            self.tell(turn)
            if self.received > PROGRAMS * PARTS // 2:
                self.halfway.set()
        self.events.append(Settled(at=time.monotonic(), member=self.name))

    def post(self, number: int) -> None:
        payload = os.urandom(SIZES[number % len(SIZES)])
        self.events.append(
            Sent(
                at=time.monotonic(),
                member=self.name,
                number=number,
                checksum=zlib.crc32(payload),
            )
        )
        assert self.comb.post(payload) == number

    def tell(self, turn: Turn) -> None:
        now = time.monotonic()
        for ordered in turn.ordered:
            assert ordered.position is not None
            for part, number in enumerate(ordered.tickets):
                position = Position(ordered.position, part)
                self.events.append(
                    Acknowledged(at=now, member=self.name, number=number, position=position)
                )
        for entry in turn.entries:
            for part, payload in enumerate(entry.parts):
                self.received += 1
                self.events.append(
                    Delivered(
                        at=now,
                        member=self.name,
                        sender=f"{entry.writer}/{entry.generation}",
                        number=entry.sequence + part,
                        position=Position(entry.position, part),
                        checksum=zlib.crc32(payload),
                    )
                )


def converse(endpoint: str, halfway: Callable[[], None]) -> list[AnyEvent]:
    """All programs post and receive; ``halfway`` is called when half is received."""
    with connect_blocking(endpoint) as cluster:
        cluster.run(create_log(LOG))
        programs = []
        for number in range(PROGRAMS):
            claimed = cluster.run(claim(LOG, bytes([number + 1]) * 16))
            assert isinstance(claimed, Claim)
            programs.append(Program(cluster, claimed))
        threads = [threading.Thread(target=program.run) for program in programs]
        for thread in threads:
            thread.start()
        assert programs[0].halfway.wait(PATIENCE)
        halfway()
        for thread in threads:
            thread.join(PATIENCE)
        assert cluster.run(look(LOG)).tail > LOG.shape.slots
    return [event for program in programs for event in program.events]


def test_programs_agree_on_a_real_memory_node(cluster_factory: ClusterFactory) -> None:
    cluster = cluster_factory(mode="RAM")
    events = converse(cluster.endpoint, lambda: None)
    assert check(events) == []
    assert sum(isinstance(event, Delivered) for event in events) == PROGRAMS * PROGRAMS * PARTS


@pytest.mark.slow
def test_programs_agree_while_the_log_fails_over() -> None:
    with real_cluster(memory_nodes=1, mode="RAM-REPL") as cluster:
        wait_until_well(cluster)

        def kill_the_primary() -> None:
            process = cluster.process(primary_of(cluster, 0))
            assert process is not None
            process.signal(signal.SIGKILL)

        events = converse(cluster.endpoint, kill_the_primary)
    assert check(events) == []
    assert sum(isinstance(event, Delivered) for event in events) == PROGRAMS * PROGRAMS * PARTS
