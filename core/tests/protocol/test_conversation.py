"""When an unanswered request is sent again depends on why there is no answer."""

import math

import pytest

from sinfonia.addresses import MemoryNodeId
from sinfonia.minitransaction import Minitransaction, Result
from sinfonia.protocol.attempts import Attempt, Call
from sinfonia.protocol.conversation import (
    CONNECT_RETRY,
    NOT_SERVING_RETRY,
    RESEND_AFTER,
    Conversation,
)
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.messages import Vote, Voted
from sinfonia.simulation.world import World

NODE = MemoryNodeId(0)


class _Unused:
    def execute(
        self, minitransaction: Minitransaction[Result], *, timeout: float | None = None
    ) -> Result:
        raise AssertionError(f"{minitransaction} executed itself within {timeout}")


def asked(conversation: Conversation, counter: int, now: float) -> Attempt:
    """A request under ``counter`` is sent to the memory node."""
    minitransaction: Minitransaction[Result] = Minitransaction(_Unused())
    minitransaction.write(NODE, 0, b"x")
    call = Call(minitransaction, deadline=1000.0)
    attempt = Attempt.begin(call, Tid(0, 1, counter), now)
    conversation.waiting[counter] = attempt
    return attempt


def test_a_request_without_an_answer_is_lost_after_a_while() -> None:
    conversation = Conversation(NODE)
    attempt = asked(conversation, 1, 0.0)
    assert conversation.overdue(RESEND_AFTER / 2) == []
    [overdue] = conversation.overdue(RESEND_AFTER)
    assert overdue.attempt is attempt
    assert overdue.silent


def test_while_a_memory_node_answers_only_what_was_overtaken_is_lost() -> None:
    conversation = Conversation(NODE)
    overtaken, answered = asked(conversation, 1, 0.0), asked(conversation, 2, 0.1)
    asked(conversation, 3, 0.2)
    del conversation.waiting[2]
    conversation.on_answer(answered, 1.0)
    assert [each.attempt for each in conversation.overdue(1.0)] == [overtaken]


def test_what_was_refused_is_all_sent_again_soon_and_once() -> None:
    conversation = Conversation(NODE)
    attempts = [asked(conversation, counter, 0.0) for counter in (1, 2)]
    conversation.on_refused(0.0)
    conversation.on_refused(0.04)
    assert conversation.overdue(NOT_SERVING_RETRY / 2) == []
    overdue = conversation.overdue(NOT_SERVING_RETRY)
    assert [each.attempt for each in overdue] == attempts
    assert not any(each.silent for each in overdue)
    assert conversation.overdue(NOT_SERVING_RETRY) == []


def test_of_a_full_memory_node_only_what_it_turned_away_is_asked_again() -> None:
    conversation = Conversation(NODE)
    turned_away, _at_work = asked(conversation, 1, 0.0), asked(conversation, 2, 0.0)
    turned_away.turned_away(NODE)
    conversation.on_turned_away(0.0)
    assert [each.attempt for each in conversation.overdue(NOT_SERVING_RETRY)] == [turned_away]
    assert conversation.overdue(NOT_SERVING_RETRY) == []


def test_a_connection_is_looked_for_less_and_less_often_and_then_at_the_usual_rate() -> None:
    conversation = Conversation(NODE)
    now, waits = 0.0, []
    while conversation.connecting:
        again_at = conversation.on_no_connection(now)
        assert conversation.on_no_connection(now) == math.inf, "that was planned before"
        waits.append(again_at - now)
        now = again_at
        conversation.overdue(now)
    assert waits == pytest.approx([CONNECT_RETRY * 2**n for n in range(len(waits))])
    assert conversation.on_no_connection(now) == pytest.approx(now + NOT_SERVING_RETRY)
    conversation.on_new_life()
    assert conversation.connecting
    assert conversation.on_no_connection(now) == pytest.approx(now + CONNECT_RETRY)


def test_a_generation_holds_for_the_life_that_told_it() -> None:
    conversation = Conversation(NODE)
    assert conversation.generation(7) == 0
    assert conversation.on_generation(7, 3)
    assert not conversation.on_generation(7, 3), "it is known"
    assert not conversation.on_generation(6, 9), "it comes from an earlier life"
    assert conversation.generation(7) == 3
    assert conversation.generation(8) == 0
    assert conversation.on_generation(8, 1)


def test_the_invariants_notice_an_answer_that_is_waited_for() -> None:
    conversation = Conversation(NODE)
    attempt = asked(conversation, 1, 0.0)
    conversation.check_invariants()
    attempt.votes[NODE] = Voted(1, Vote.OK)
    with pytest.raises(AssertionError, match="an answer in hand"):
        conversation.check_invariants()


def test_the_invariants_notice_counters_out_of_order() -> None:
    conversation = Conversation(NODE)
    asked(conversation, 2, 0.0)
    asked(conversation, 1, 0.0)
    with pytest.raises(AssertionError):
        conversation.check_invariants()


def test_the_invariants_of_a_coordinator_notice_a_vote_that_is_not_waited_for() -> None:
    world = World(2)
    world.begin(("write", 0, 0, b"x"), ("write", 1, 0, b"y"))
    world.coordinator.check_invariants()
    world.coordinator.calls.conversations[NODE].waiting.clear()
    with pytest.raises(AssertionError):
        world.coordinator.check_invariants()


def test_the_invariants_of_a_coordinator_notice_a_call_that_is_over() -> None:
    world = World(1)
    call = world.begin(("write", 0, 0, b"x"))
    call.result = Result(True, [], (), 1)
    with pytest.raises(AssertionError, match="its call is over"):
        world.coordinator.check_invariants()
