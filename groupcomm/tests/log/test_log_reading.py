"""Any program reads a log from any position on, and finds a position by time."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupcomm.errors import DamagedEntry
from groupcomm.log.comb import Comb
from groupcomm.log.creation import create_log
from groupcomm.log.layout import CURSOR_NONE, Log, Shape
from groupcomm.log.limits import LogLimits
from groupcomm.log.reading import Entries, follow, position_at, read
from groupcomm.log.writers import Claim, claim, trim
from sinfonia import LimitExceeded
from sinfonia.client.steps import Steps
from sinfonia.structures import NotFormatted, Trimmed, WrongPosition
from sinfonia.testing.stepwise import Stage

LOG = Log(0, 0, Shape(slots=8, slot_bytes=128, writers=2, area_bytes=2000))

SMALL = LogLimits(fetch_bytes=100)


class Filled:
    """A log with one writer that reads nothing, and so keeps nothing from being trimmed."""

    def __init__(self, log: Log = LOG) -> None:
        self.log = log
        self.stage = Stage(capacity=1 << 20)
        self.stage.run(create_log(log))
        self.clock = 0
        claimed = self.stage.run(claim(log, b"w" * 16, cursor=CURSOR_NONE))
        assert isinstance(claimed, Claim)
        self.comb = Comb(log, claimed, lambda: self.clock)

    def append(self, *parts: bytes) -> None:
        """One entry."""
        for part in parts:
            self.comb.post(part)
        while self.comb.posted:
            self.stage.run(self.comb.turn())

    def read(self, position: int, count: int = 100) -> list[list[bytes]]:
        found = self.stage.run(read(self.log, position, count))
        assert isinstance(found, Entries)
        assert found.first == position
        return [list(entry.parts) for entry in found.entries]

    def cost(self, steps: Steps[Any]) -> int:
        """The minitransactions that an operation takes."""
        actor, count = self.stage.begin(steps), 0
        while not actor.over:
            self.stage.step(actor)
            count += 1
        assert actor.value is not None
        return count


@pytest.fixture
def filled() -> Filled:
    made = Filled()
    made.append(b"a", b"bb")
    made.append(b"large" * 100)
    made.append(b"c")
    return made


def test_what_was_appended_is_read_from_any_position(filled: Filled) -> None:
    assert filled.read(0) == [[b"a", b"bb"], [b"large" * 100], [b"c"]]
    assert filled.read(1, 1) == [[b"large" * 100]]
    assert filled.read(2) == [[b"c"]]
    assert filled.read(3) == []


def test_reading_costs_one_minitransaction_and_one_for_bodies_in_areas(filled: Filled) -> None:
    assert filled.cost(read(LOG, 2, 8)) == 1
    assert filled.cost(read(LOG, 0, 8)) == 2
    assert filled.cost(read(LOG, 0, 8, limits=SMALL)) == 1 + 6  # 504 bytes, 100 at a time


def test_a_reader_beyond_the_tail_is_refused(filled: Filled) -> None:
    with pytest.raises(WrongPosition):
        filled.read(4)
    with pytest.raises(LimitExceeded):
        filled.read(0, 0)


def test_a_reader_of_what_is_trimmed_is_told_where_the_log_begins(filled: Filled) -> None:
    filled.stage.run(trim(LOG, 2))
    assert filled.stage.run(read(LOG, 1, 5)) == Trimmed(2, 3)
    assert filled.read(2) == [[b"c"]]


def test_a_body_that_is_trimmed_before_it_is_fetched_is_not_mistaken_for_another(
    filled: Filled,
) -> None:
    """The writer may have put something else there."""
    actor = filled.stage.begin(read(LOG, 1, 5, limits=SMALL))
    filled.stage.step(actor)
    filled.stage.step(actor)
    filled.stage.run(trim(LOG, 3))
    filled.append(b"other" * 380)
    assert filled.stage.finish(actor) == Trimmed(3, 4)


def test_what_was_complete_before_the_rest_was_trimmed_is_returned(filled: Filled) -> None:
    actor = filled.stage.begin(read(LOG, 0, 5, limits=SMALL))
    filled.stage.step(actor)
    filled.stage.step(actor)
    filled.stage.run(trim(LOG, 3))
    found = filled.stage.finish(actor)
    assert isinstance(found, Entries)
    assert [list(entry.parts) for entry in found.entries] == [[b"a", b"bb"]]
    assert filled.stage.run(read(LOG, found.next, 5)) == Trimmed(3, 3)


def test_a_damaged_slot_is_an_error(filled: Filled) -> None:
    filled.stage.memory[0][LOG.ring.address + 32 + 16] ^= 1  # type: ignore[index]
    with pytest.raises(NotFormatted, match="damaged"):
        filled.read(0)


def test_a_damaged_body_is_an_error(filled: Filled) -> None:
    [(address, _)] = LOG.area_pieces(filled.comb.writer, 10, 1)
    filled.stage.memory[0][address] ^= 1  # type: ignore[index]
    with pytest.raises(DamagedEntry, match="checksum"):
        filled.read(0)


def test_a_follower_waits_for_an_entry(filled: Filled) -> None:
    actor = filled.stage.begin(follow(LOG, 3, 10))
    for _ in range(20):
        filled.stage.step(actor)
    assert not actor.over
    assert actor.pauses > 0.1
    filled.append(b"at last")
    found = filled.stage.finish(actor)
    assert isinstance(found, Entries)
    assert [list(entry.parts) for entry in found.entries] == [[b"at last"]]


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=0, max_size=200).map(sorted),
    st.integers(0, 40),
    st.integers(0, 31),
)
def test_a_position_is_found_by_time(stamps: list[int], trimmed: int, wanted: int) -> None:
    """Of stamps that ascend: the first that is not before the time."""
    log = Log(0, 0, Shape(slots=200, slot_bytes=128, writers=1, area_bytes=0))
    filled = Filled(log)
    for stamp in stamps:
        filled.clock = stamp
        filled.append(b"x")
    if trimmed:
        filled.stage.run(trim(log, trimmed))
    first = min(trimmed, len(stamps))
    expected = [k for k in range(first, len(stamps)) if stamps[k] >= wanted]
    assert filled.stage.run(position_at(log, wanted)) == min(expected, default=len(stamps))


def test_a_search_by_time_takes_few_minitransactions() -> None:
    log = Log(0, 0, Shape(slots=4096, slot_bytes=128, writers=1, area_bytes=0))
    filled = Filled(log)
    for filled.clock in range(3000):
        filled.append(b"x")
    assert filled.cost(position_at(log, 1234)) <= 3
    assert filled.stage.run(position_at(log, 1234)) == 1234


def test_a_search_goes_on_while_entries_are_trimmed() -> None:
    log = Log(0, 0, Shape(slots=200, slot_bytes=128, writers=1, area_bytes=0))
    filled = Filled(log)
    for filled.clock in range(150):
        filled.append(b"x")
    actor = filled.stage.begin(position_at(log, 20))
    filled.stage.step(actor)
    filled.stage.run(trim(log, 100))
    assert filled.stage.finish(actor) == 100
