"""The windows of section 3.6, compared with a history in which everything is remembered."""

from dataclasses import FrozenInstanceError, dataclass, field
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.load import NodeLoad, loads_of, node_load
from sinfonia.errors import Unreachable
from sinfonia.protocol.load.counters import OTHER, TAGS_MAX, LoadCounters
from sinfonia.protocol.load.inquiry import ASK_AGAIN, LoadInquiry
from sinfonia.protocol.load.windows import LOAD_WINDOWS, NOTHING, STEPS, Counts, LoadWindows
from sinfonia.protocol.messages import GetLoad, Load, LoadWindow

NODE = MemoryNodeId(3)
FIELDS = Counts._fields

# Times are multiples of this, which floats hold exactly.
GRAIN = 1 / 64

# What notes are not taken more often than, whatever the window.
OFTEN = LOAD_WINDOWS[0] / STEPS


@dataclass
class History:
    """A memory node's counters, their windows, and all that there ever was."""

    now: float = 1000.0
    counters: LoadCounters = field(default_factory=LoadCounters)
    longest_gap: float = 0.0

    def __post_init__(self) -> None:
        self.born = self.now
        self.windows = LoadWindows(self.counters, self.now)
        self.at: dict[float, dict[str, Counts]] = {self.now: dict(self.windows.counts())}

    def step(self, seconds: float, tag: str, increments: tuple[int, ...]) -> None:
        """Time passes, the loop wakes up, and then something happens."""
        self.now += seconds
        self.longest_gap = max(self.longest_gap, seconds)
        self.windows.on_tick(self.now)
        self.at[self.now] = dict(self.windows.counts())
        counts = self.counters.of(tag)
        for name, increment in zip(FIELDS, increments, strict=True):
            setattr(counts, name, getattr(counts, name) + increment)

    def check(self) -> None:
        """Each window is exact for the seconds that it names, and these are those it should."""
        self.windows.check_invariants()
        told = self.windows.windows(self.now)
        assert set(told) == set(self.counters.by_tag)
        for tag, windows in told.items():
            for length, window in zip(LOAD_WINDOWS, windows, strict=True):
                self.check_seconds(length, window.seconds)
                before = self.at[self.now - window.seconds].get(tag, NOTHING)
                now = self.windows.counts()[tag]
                assert as_counts(window) == Counts(
                    *(b - a for a, b in zip(before, now, strict=True))
                )

    def check_seconds(self, length: float, seconds: float) -> None:
        age = self.now - self.born
        if age <= length:
            assert seconds == age
        else:
            assert length <= seconds <= length * (1 + 1 / STEPS) + OFTEN + self.longest_gap


def as_counts(window: LoadWindow) -> Counts:
    return Counts(*(getattr(window, name) for name in FIELDS))


steps = st.lists(
    st.tuples(
        st.sampled_from([1, 13, 16, 64, 1000, 20_000, 150_000]),
        st.sampled_from(["", "mail", "index"]),
        st.tuples(*[st.integers(0, 3)] * len(FIELDS)),
    ),
    max_size=80,
)


@given(steps)
def test_windows_tell_what_a_full_history_tells(
    taken: list[tuple[int, str, tuple[int, ...]]],
) -> None:
    history = History()
    for grains, tag, increments in taken:
        history.step(grains * GRAIN, tag, increments)
        history.check()


def test_half_a_day_of_steady_work_stays_small_and_exact() -> None:
    history = History()
    for second in range(20_000):
        history.step(2.5, "mail" if second % 3 else "", (1, 0, 0, 8, 8))
    history.check()
    mail = history.windows.windows(history.now)["mail"]
    assert [round(window.executed / window.seconds, 2) for window in mail[2:]] == [0.27] * 3


def test_an_idle_wake_up_notes_nothing() -> None:
    """The loop may wake up a hundred thousand times a second."""
    history = History()
    notes = history.windows._latest
    history.windows.on_tick(history.now + OFTEN / 2)
    assert history.windows._latest is notes


def test_an_idle_node_keeps_one_copy_of_its_counts() -> None:
    history = History()
    for _ in range(100):
        history.step(1.0, "", (0, 0, 0, 0, 0))
    notes = {id(note.classes) for notes in history.windows._notes for note in notes}
    assert len(notes) == 1


def test_tags_beyond_the_limit_are_counted_together() -> None:
    history = History()
    for number in range(10 * TAGS_MAX):
        history.step(GRAIN, f"tag{number}", (1, 0, 0, 0, 0))
    told = history.windows.windows(history.now)
    assert len(told) <= TAGS_MAX + 1
    assert sum(windows[-1].executed for windows in told.values()) == 10 * TAGS_MAX
    assert told[OTHER][-1].executed > 8 * TAGS_MAX


# --- what users see ------------------------------------------------------------------------------


def said(executed: int, seconds: float = 2.0) -> list[LoadWindow]:
    return [
        LoadWindow(
            seconds=seconds,
            executed=executed,
            aborted=1,
            retried=2,
            bytes_read=80,
            bytes_written=160,
        )
        for _ in LOAD_WINDOWS
    ]


@pytest.fixture
def load() -> NodeLoad:
    return node_load(NODE, Load(NODE, {"": said(10), "mail": said(30)}))


def test_the_total_is_that_of_all_tags(load: NodeLoad) -> None:
    total = load.window(5)
    assert (total.executed, total.aborted, total.retried) == (40, 2, 4)
    assert (total.bytes_read, total.bytes_written) == (160, 320)
    assert [window.window for window in load.total] == list(LOAD_WINDOWS)


def test_rates_are_over_the_seconds_that_were_covered(load: NodeLoad) -> None:
    """A node that is two seconds old has no five seconds to divide by."""
    mail = load.window(5, "mail")
    assert (mail.executed_rate, mail.aborted_rate, mail.retried_rate) == (15.0, 0.5, 1.0)
    assert (mail.bytes_read_rate, mail.bytes_written_rate) == (40.0, 80.0)


def test_a_node_that_was_just_born_has_no_rates() -> None:
    load = node_load(NODE, Load(NODE, {"": said(0, seconds=0.0)}))
    assert load.window(5).executed_rate == 0.0


def test_a_tag_that_was_never_seen_did_nothing(load: NodeLoad) -> None:
    assert load.window(60, "unheard of").executed == 0
    assert load.window(60, "unheard of").seconds == 2.0


def test_only_the_papers_windows_can_be_asked_for(load: NodeLoad) -> None:
    with pytest.raises(ValueError, match="5, 60, 600, 3600, 43200"):
        load.window(7)


def test_a_load_cannot_be_changed(load: NodeLoad) -> None:
    assert isinstance(load.by_tag, MappingProxyType)
    with pytest.raises(FrozenInstanceError):
        setattr(load, "node", 0)  # noqa: B010 - mypy would not let it pass otherwise


# --- asking --------------------------------------------------------------------------------------


def test_a_memory_node_that_does_not_answer_is_asked_again() -> None:
    inquiry = LoadInquiry([MemoryNodeId(0), NODE])
    assert [(send.node, send.request) for send in inquiry.due(0.0)] == [
        (0, GetLoad()),
        (3, GetLoad()),
    ]
    inquiry.on_load(NODE, Load(NODE, {}))
    assert inquiry.due(ASK_AGAIN / 2) == []
    assert [send.node for send in inquiry.due(ASK_AGAIN)] == [0]
    assert inquiry.unanswered == [0]


def test_a_second_answer_changes_nothing() -> None:
    inquiry = LoadInquiry([NODE])
    inquiry.on_load(NODE, Load(NODE, {"": said(1)}))
    inquiry.on_load(NODE, Load(NODE, {"": said(2)}))
    inquiry.on_load(MemoryNodeId(9), Load(MemoryNodeId(9), {}))
    assert loads_of(inquiry)[NODE].window(5).executed == 1
    assert list(inquiry.answers) == [NODE]


def test_the_error_names_the_silent_memory_node() -> None:
    inquiry = LoadInquiry([MemoryNodeId(0), NODE])
    inquiry.on_load(MemoryNodeId(0), Load(MemoryNodeId(0), {}))
    with pytest.raises(Unreachable, match="memory node 3 did not say"):
        loads_of(inquiry)
