"""A member answers for itself: in every role it says the same things about itself."""

import pytest

from sinfonia.memnode.node import MemoryNode
from sinfonia.memnode.settings import State
from sinfonia.protocol.membership.messages import Directory
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    GetDirectory,
    GetLoad,
    GetStatus,
    Load,
    NotServing,
    Probe,
    ProbeReply,
    Replies,
    Reply,
    Request,
    Requests,
    Status,
    Unsettled,
    Voted,
    WrongConfig,
)
from sinfonia.simulation.member_group import CLIENT_ROUTE, NODE, MemberGroup
from sinfonia.simulation.participant_harness import CLIENT, one_phase, prepare, tid

PROBE = Probe(0, 0.0, 0.0, sent_at=12.5)


def serving(group: MemberGroup) -> str:
    return "a"


def following(group: MemberGroup) -> str:
    return "b"


def starting(group: MemberGroup) -> str:
    group.crash("b")
    group.start("b")
    return "b"


def settling(group: MemberGroup) -> str:
    """It has a log to replay, and leads again already."""
    group.crash("a")
    group.start("a")
    group.appoint("a", in_sync=["b"], others=())
    return "a"


ROLES = {
    State.SERVING: serving,
    State.FOLLOWING: following,
    State.STARTING: starting,
    State.SETTLING: settling,
}


def begun(state: State) -> tuple[MemberGroup, MemoryNode]:
    """A group of two, and its member that is in ``state``."""
    group = MemberGroup("a", "b")
    group.settle(2.0)
    group.write(0, b"x")
    node = group.nodes[ROLES[state](group)]
    assert node.state is state
    return group, node


def receive(group: MemberGroup, node: MemoryNode, *requests: Request, client: int = 0) -> None:
    """Deliver a batch; what is said to it waits in the wires."""
    incarnation = group.entry.incarnation if client else 0
    batch = Requests(PROTOCOL_VERSION, client, incarnation, 0, list(requests))
    node.receive(CLIENT_ROUTE, batch, group.now)


def said(group: MemberGroup) -> list[list[Reply]]:
    """What is on its way to the client: the replies of each message."""
    return [
        message.replies
        for _, destination, message in group.wires
        if isinstance(message, Replies) and destination == CLIENT_ROUTE.decode()
    ]


@pytest.mark.parametrize("state", ROLES)
def test_a_member_says_what_it_is_in_every_role(state: State) -> None:
    group, node = begun(state)
    receive(group, node, GetStatus(), GetLoad(), GetDirectory())
    node.flush(group.now)
    group.settle(0.05)
    told = group.directory if node.directory is not None else NotServing()
    status, load, directory = group.answers[-3:]
    assert isinstance(status, Status)
    assert status.state == state.value
    assert isinstance(load, Load)
    assert directory == told
    assert (state is State.STARTING) == (directory == NotServing())


@pytest.mark.parametrize("state", ROLES)
def test_a_member_tells_a_manager_who_it_is_in_every_role(state: State) -> None:
    group, node = begun(state)
    receive(group, node, PROBE)
    node.flush(group.now)
    [[reply]] = said(group)
    assert isinstance(reply, ProbeReply)
    assert (reply.node, reply.identity, reply.starts) == (NODE, node.identity, node.starts)
    assert reply.serving == (state is State.SERVING)
    assert reply.sent_at == PROBE.sent_at
    assert reply.directory_version == (0 if node.directory is None else group.directory.version)
    assert reply.last > 0


@pytest.mark.parametrize("state", ROLES)
def test_a_member_that_is_told_of_a_directory_by_a_probe_has_it_from_then_on(state: State) -> None:
    group, node = begun(state)
    later = Directory(group.directory.version + 1, 0, "test", [group.entry])
    receive(group, node, Probe(0, 0.0, 0.0, later))
    node.flush(group.now)
    [[reply]] = said(group)
    assert isinstance(reply, ProbeReply)
    assert reply.directory_version == later.version
    assert node.directory == later


@pytest.mark.parametrize("state", [State.FOLLOWING, State.STARTING, State.SETTLING])
def test_a_member_that_executes_nothing_says_so_beside_what_it_is(state: State) -> None:
    group, node = begun(state)
    receive(group, node, GetStatus(), one_phase(1, write=[(0, b"y")]), client=CLIENT)
    [[status, refusal]] = said(group)
    assert isinstance(status, Status)
    expected = WrongConfig(group.entry) if state is State.FOLLOWING else NotServing()
    assert refusal == expected


def test_a_primary_answers_a_question_with_the_votes_of_its_batch() -> None:
    group, node = begun(State.SERVING)
    group.settle(0.01)
    receive(group, node, one_phase(9, read=[(0, 1)]), GetStatus(), client=CLIENT)
    assert not said(group), "nothing leaves before the end of the wake-up"
    node.flush(group.now)
    [replies] = said(group)
    assert [type(reply) for reply in replies] == [Voted, Status]


def test_a_primary_names_in_doubt_only_votes_that_its_replicas_have_acknowledged() -> None:
    """A manager takes them for votes that cannot be lost; it is answered all the same."""
    group, node = begun(State.SERVING)
    receive(group, node, prepare(9, write=[(8, b"y")]), client=CLIENT)
    receive(group, node, PROBE)
    assert not said(group), "a probe is answered when the log was synced"
    node.flush(group.now)
    [[reply]] = said(group)
    assert isinstance(reply, ProbeReply)
    assert reply.unsettled == []
    group.settle(0.05)
    receive(group, node, PROBE)
    node.flush(group.now)
    [[reply]] = said(group)
    assert isinstance(reply, ProbeReply)
    assert reply.unsettled == [Unsettled(tid(9), [NODE, 1])]  # type: ignore[list-item]
