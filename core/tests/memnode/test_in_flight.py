"""What one connection may have under way at a memory node, and what happens to the rest."""

from dataclasses import dataclass
from typing import Any

from sinfonia.addresses import MemoryNodeId
from sinfonia.memnode.in_flight import (
    GIVEN_UP_AFTER,
    IN_FLIGHT_BYTES_MAX,
    IN_FLIGHT_MAX,
    InFlight,
)
from sinfonia.minitransaction import BYTES_MAX, ReadItem
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    Commit,
    ExecCommit,
    ExecPrepare,
    GetStatus,
    Replies,
    Request,
    Requests,
    Vote,
    Voted,
)
from sinfonia.transport.admission import Unread

ROUTE, OTHER = b"\0aaaa", b"\0bbbb"


def batch(*requests: Request) -> Requests:
    return Requests(PROTOCOL_VERSION, 1, 1, 0, list(requests))


def replies(votes: int) -> Replies:
    return Replies(PROTOCOL_VERSION, 0, 1, 0, [Voted(k, Vote.OK) for k in range(votes)])


def commits(number: int, read: int = 0) -> list[Request]:
    reads = [ReadItem(0, read)] if read else []
    return [ExecCommit(counter=k, epoch=0, reads=reads) for k in range(number)]


def test_one_connection_has_only_so_many_under_way_and_others_are_not_concerned() -> None:
    in_flight = InFlight()
    most, votes = in_flight.admit(ROUTE, batch(*commits(IN_FLIGHT_MAX + 3)), 0.0)
    assert len(most.requests) == IN_FLIGHT_MAX
    assert [voted.vote for voted in votes if isinstance(voted, Voted)] == [Vote.BAD_LOAD] * 3
    in_flight.check_invariants()
    prepare = ExecPrepare(tid=Tid(0, 1, 9), participants=[MemoryNodeId(0)])
    settle = Commit(Tid(0, 1, 8), True)
    rest, votes = in_flight.admit(ROUTE, batch(prepare, settle), 0.0)
    # What settles what is in doubt makes room, and so is always taken.
    assert rest.requests == [settle]
    assert votes == [Voted(9, Vote.BAD_LOAD)]
    assert in_flight.admit(OTHER, batch(prepare), 0.0) == (batch(prepare), [])
    in_flight.answered(ROUTE, replies(2))
    assert len(in_flight.admit(ROUTE, batch(*commits(3)), 0.0)[0].requests) == 2
    in_flight.check_invariants()


def test_large_answers_are_counted_in_bytes() -> None:
    in_flight = InFlight()
    fit = IN_FLIGHT_BYTES_MAX // BYTES_MAX
    most, votes = in_flight.admit(ROUTE, batch(*commits(fit + 2, read=BYTES_MAX)), 0.0)
    assert (len(most.requests), len(votes)) == (fit, 2)
    # What reads nothing is not held up by what reads a lot.
    assert not in_flight.admit(ROUTE, batch(*commits(5)), 0.0)[1]
    in_flight.answered(ROUTE, replies(fit + 5))
    assert not in_flight.admit(ROUTE, batch(*commits(fit, read=BYTES_MAX)), 0.0)[1]
    in_flight.check_invariants()


def test_answers_that_nobody_reads_count_too() -> None:
    in_flight = InFlight()
    unread = IN_FLIGHT_BYTES_MAX - 100
    question = batch(*commits(1, read=101))
    assert in_flight.admit(ROUTE, question, 0.0, unread=unread)[1] == [Voted(0, Vote.BAD_LOAD)]
    assert not in_flight.admit(ROUTE, question, 0.0, unread=unread - 1)[1]


def test_questions_beyond_the_limit_get_no_answer() -> None:
    in_flight = InFlight()
    taken, votes = in_flight.admit(ROUTE, batch(*[GetStatus()] * 5000), 0.0)
    assert 0 < len(taken.requests) < 5000
    assert not votes
    assert in_flight.turned_away == 5000 - len(taken.requests)
    in_flight.check_invariants()


def test_what_will_never_be_answered_is_given_up() -> None:
    in_flight = InFlight()
    in_flight.admit(ROUTE, batch(*commits(IN_FLIGHT_MAX)), 0.0)
    assert in_flight.admit(ROUTE, batch(*commits(1)), GIVEN_UP_AFTER)[1]
    assert not in_flight.admit(ROUTE, batch(*commits(1)), GIVEN_UP_AFTER + 1)[1]
    in_flight.check_invariants()


@dataclass
class Tracker:
    """Stands for ZeroMQ's: it is done when a reply has left."""

    done: bool = False


def test_large_replies_count_until_they_have_left() -> None:
    unread = Unread()
    first, second, third = trackers = [Tracker(), Tracker(), Tracker()]
    for size, tracker in enumerate(trackers, 1):
        stand_in: Any = tracker
        unread.add(ROUTE, stand_in, 10**size)
    assert (unread.of(ROUTE), unread.of(OTHER)) == (1110, 0)
    first.done = True
    assert unread.of(ROUTE) == 1100
    second.done = third.done = True
    assert unread.of(ROUTE) == 0


def test_peers_that_are_gone_leave_nothing_behind() -> None:
    unread = Unread()
    gone: Any = Tracker(done=True)
    for number in range(5000):
        unread.add(number.to_bytes(4, "little"), gone, 10**6)
    assert len(unread) <= 2048
