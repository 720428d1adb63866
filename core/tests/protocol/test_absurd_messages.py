"""Whatever a well-formed message says, nobody's loop ends by it, and what holds goes on holding.

The messages are made from their types: every kind, every field anything that its type allows, at
or beyond the edges first, with some plausible values among them so that they get far.  They cross
the codec, as on the wire.  The seeds are fixed, so that a failure repeats.
"""

import math
import random
from collections import Counter
from typing import Any, cast, get_args

import msgspec
import msgspec.inspect
import pytest

from sinfonia.addresses import ADDRESS_MAX, MemoryNodeId
from sinfonia.errors import OutOfRange
from sinfonia.management.driver import ManagerDriver
from sinfonia.management.store import EmbeddedStore
from sinfonia.memnode.node import MemoryNode
from sinfonia.memnode.settings import MemoryNodeSettings, State
from sinfonia.minitransaction import Executor, Minitransaction, Relation, Result
from sinfonia.protocol.coordinator import Coordinator
from sinfonia.protocol.load.inquiry import LoadInquiry
from sinfonia.protocol.membership.manager import ManagementRequest, Manager, ManagerSettings
from sinfonia.protocol.membership.messages import (
    Directory,
    Member,
    MemoryNodeEntry,
    Register,
    Registered,
)
from sinfonia.protocol.messages import (
    PROTOCOL_VERSION,
    Commit,
    ExecCommit,
    ExecPrepare,
    Forget,
    ProbeReply,
    Replies,
    Reply,
    Request,
    Requests,
    Vote,
    Voted,
)
from sinfonia.simulation.disk import VirtualDisk
from sinfonia.simulation.participant_harness import prepare
from sinfonia.transport.codec import (
    decode_replies,
    decode_requests,
    encode_replies,
    encode_requests,
)
from sinfonia.transport.zeromq import is_connectable

NOBODY = cast("Executor[Any]", None)  # executes what is handed to the coordinator
NODE = MemoryNodeId(0)
CAPACITY = 1 << 20
ROUTES = [b"one", b"two", b"three"]
IDENTITIES = ["me", "other", "", "x" * 300]
ENDPOINTS = ["tcp://127.0.0.1:7000", "tcp://127.0.0.1:7001", "", "tcp://a b:0", "nonsense"]
MODES = ["LOG", "RAM", "LOG-REPL", "RAM-REPL", ""]
STRINGS = [*IDENTITIES, *ENDPOINTS, *MODES, "\n\0", "{}%s"]
INTEGERS = [0, 1, 2, 3, 4, 7, 8, 64, 4096, CAPACITY - 1, CAPACITY, CAPACITY + 1, 2**31, 2**53]
INTEGERS += [-1, -8, -(2**63), 2**62 - 1, 2**62, 2**63 - 1, ADDRESS_MAX, ADDRESS_MAX - 8]
FLOATS = [0.0, 1.0, -1.0, 1e308, -1e308, math.inf, -math.inf, math.nan, 5e-324]
LENGTHS = [0, 1, 1, 2, 3]
ROUNDS = 24
SENSIBLE_CLIENT = 77

EVERY_REQUEST: tuple[type[Any], ...] = get_args(Request)
OFTEN: list[type[Any]] = [ExecCommit, ExecPrepare, Commit, Forget] * 5
EVERY_REPLY: tuple[type[Any], ...] = get_args(Reply)
EVERY_MANAGEMENT_REQUEST: tuple[type[Any], ...] = get_args(ManagementRequest)


class Absurd:
    """Makes values of types."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.likely: list[int] = []  # integers that lead further than others
        self._types: dict[Any, Any] = {}

    def of(self, kind: Any) -> Any:  # noqa: ANN401 - whatever the type says
        """A value of ``kind``."""
        known = self._types.get(kind)
        if known is None:
            known = self._types[kind] = msgspec.inspect.type_info(kind)
        return self._value(known)

    def _value(self, kind: Any) -> Any:  # noqa: ANN401, C901, PLR0911 - one line for each kind
        rng = self.rng
        match kind:
            case msgspec.inspect.IntType():
                return self._integer(kind.ge, kind.le)
            case msgspec.inspect.FloatType():
                return rng.choice(FLOATS)
            case msgspec.inspect.BoolType():
                return rng.random() < 0.5
            case msgspec.inspect.StrType():
                return rng.choice(STRINGS)[: kind.max_length]
            case msgspec.inspect.BytesType():
                size = rng.choice([0, 1, 2, 4, 8, 8, 8, 24, 40, 64, 5000])
                return rng.randbytes(size) if rng.random() < 0.3 else bytes(size)
            case msgspec.inspect.NoneType():
                return None
            case msgspec.inspect.EnumType():
                return rng.choice(list(kind.cls))
            case msgspec.inspect.ListType():
                return [self._value(kind.item_type) for _ in range(rng.choice(LENGTHS))]
            case msgspec.inspect.TupleType():
                return tuple(self._value(each) for each in kind.item_types)
            case msgspec.inspect.DictType():
                return {
                    self._value(kind.key_type): self._value(kind.value_type)
                    for _ in range(rng.choice(LENGTHS))
                }
            case msgspec.inspect.UnionType():
                return self._value(rng.choice(kind.types))
            case msgspec.inspect.StructType():
                return kind.cls(**{field.name: self._value(field.type) for field in kind.fields})
        raise AssertionError(f"no values of {kind}")

    def _integer(self, least: int | None, most: int | None) -> int:
        rng = self.rng
        value = rng.choice(self.likely if self.likely and rng.random() < 0.85 else INTEGERS)
        if rng.random() < 0.05:
            value = rng.choice([2**64 - 1, -(2**63)])
        value = max(value, -(2**63) if least is None else least)
        return min(value, 2**64 - 1 if most is None else most)


def directory(*nodes: MemoryNodeEntry, version: int = 1) -> Directory:
    return Directory(version, 4, "test", list(nodes))


class Host:
    """A machine on which one memory node lives, on a virtual disk, in the state that is wanted."""

    def __init__(self, mode: str, state: State) -> None:
        self.mode = mode
        self.state = state
        self.now = 100.0
        self.disk = VirtualDisk(random.Random(1))
        self.votes = [0] * len(Vote)
        self.version = 0
        self.node = self.begin()

    def begin(self) -> MemoryNode:
        """A new life, as the server begins one when the last is over."""
        settings = MemoryNodeSettings(
            NODE,
            ENDPOINTS[0],
            CAPACITY,
            self.mode,
            settle_max=1e9 if self.state is State.SETTLING else 0.0,
            log_segment_bytes=64 * 1024,
        )
        self.node = MemoryNode(
            settings,
            self.disk,
            new_identity="me",
            send=self._send,
            wall=lambda: round(self.now * 1e6),
            now=self.now,
        )
        starts = self.node.starts
        self.version += 1
        leads = self.state in (State.SERVING, State.SETTLING)
        me = Member(identity="me", endpoint=ENDPOINTS[0], starts=starts, in_sync=False)
        entry = MemoryNodeEntry(
            node=NODE,
            endpoint=ENDPOINTS[0] if leads else ENDPOINTS[1],
            capacity=CAPACITY,
            mode=self.mode,
            identity="me" if leads else "other",
            incarnation=starts,
            starts=starts,
            config_epoch=starts,
            replicas=[] if leads else [me],
        )
        if self.state is not State.STARTING:
            welcome = Registered(starts, 4, directory(entry, version=self.version))
            self.node.on_manager(welcome, self.now)
            if self.state is State.SERVING:
                self.now += 10.0
                while not self.node.participant.serving:
                    self.node.tick(self.now)
        return self.node

    def _send(self, _route: bytes, replies: Replies) -> None:
        encode_replies(replies)
        for reply in replies.replies:
            if isinstance(reply, Voted):
                self.votes[reply.vote] += 1

    def wake_up(self) -> None:
        node = self.node
        node.wake_up(self.now)
        node.to_managers(self.now)
        if node.over:
            node.close()
            self.begin()

    def let_a_sensible_client_lock(self, round_: int) -> None:
        """In every second round it holds the first bytes, so that absurd ones meet that, too."""
        epoch, incarnation = self.node.participant_state.epoch, self.node.incarnation
        request: Request = prepare(
            round_, write=[(0, bytes(64))], client=SENSIBLE_CLIENT, epoch=epoch
        )
        if round_ % 2:
            held = [
                tid for tid in self.node.participant_state.in_doubt if tid.client == SENSIBLE_CLIENT
            ]
            if not held:
                return
            request = Commit(held[0], action=False)
        batch = Requests(PROTOCOL_VERSION, SENSIBLE_CLIENT, incarnation, 0, [request])
        self.node.receive(ROUTES[0], batch, self.now)

    def crash(self) -> None:
        self.node.close()
        self.disk.crash()
        self.begin()


def far_going(absurd: Absurd, request: Request) -> Request:
    """With fewer items, of which fewer make no sense, and meant for this memory node."""
    rng = absurd.rng
    if isinstance(request, ExecCommit | ExecPrepare) and rng.random() < 0.8:
        kinds = ["compares", "reads", "writes", "conditions", "updates"]
        none: dict[str, Any] = {kind: [] for kind in rng.sample(kinds, rng.choice([3, 4]))}
        request = msgspec.structs.replace(request, **none)
    if isinstance(request, ExecPrepare) and rng.random() < 0.8:
        request = msgspec.structs.replace(
            request, participants=sorted({NODE, MemoryNodeId(1), *request.participants[:2]})
        )
    return request


def batch_of(absurd: Absurd, requests: list[Request], incarnation: int) -> Requests:
    """As it comes out of the codec; most of what is asked is meant for ``incarnation``."""
    rng = absurd.rng
    client = rng.choice([0, 0, 0, 1, 2, 2**64 - 1])
    batch = Requests(
        PROTOCOL_VERSION,
        client,
        incarnation if rng.random() < 0.9 else absurd.of(int) % 2**64,
        0 if client < 2 else rng.choice([0, 1, 2, 2**62]),
        requests,
        clock=absurd.of(Requests.__annotations__["clock"]),
        node=rng.choice([-1, 0, 0, 0, 1, 2**63 - 1]),
    )
    return decode_requests(encode_requests(batch, large=True))


STATES = [
    ("LOG", State.STARTING),
    ("LOG", State.SETTLING),
    ("LOG", State.SERVING),
    ("RAM", State.SERVING),
    ("LOG-REPL", State.CATCHING_UP),
    ("LOG-REPL", State.SERVING),
]


@pytest.mark.parametrize(("mode", "state"), STATES)
def test_a_memory_node_goes_on(mode: str, state: State) -> None:
    host = Host(mode, state)
    for seed in range(ROUNDS):
        absurd = Absurd(seed)
        host.let_a_sensible_client_lock(seed)
        for step in range(40):
            epoch, fresh = host.node.participant_state.epoch, 100 + (40 * seed + step) // 8
            absurd.likely = [0, 0, 0, 1, 2, 64, epoch, epoch, fresh, fresh]
            kinds = [
                absurd.rng.choice([*EVERY_REQUEST, *OFTEN])
                for _ in range(absurd.rng.choice(LENGTHS))
            ]
            requests = [far_going(absurd, absurd.of(kind)) for kind in kinds]
            batch = batch_of(absurd, requests, host.node.incarnation)
            host.node.receive(absurd.rng.choice(ROUTES), batch, host.now)
            if absurd.rng.random() < 0.3:
                host.now += absurd.rng.choice([0.0, 0.001, 0.1, 30.0])
                host.wake_up()
        host.wake_up()
        host.node.check_invariants()
        if seed % 8 == 7:
            host.crash()
    if state is State.SERVING:
        for vote in (Vote.OK, Vote.BAD_LOCK, Vote.BAD_CMP, Vote.BAD_EPOCH, Vote.BAD_RANGE):
            assert host.votes[vote], f"nothing was voted {vote.name}"
    host.node.close()


class Desk:
    """A manager with a store in memory; requests to it come as its server lets them through."""

    def __init__(self) -> None:
        self.now = 100.0
        self.disk = VirtualDisk(random.Random(1))
        self.answers = 0
        self.begin()

    def begin(self) -> None:
        """The manager starts, on what is stored."""
        self.store = EmbeddedStore(self.disk, cluster="test")
        self.manager = Manager(
            client=7, settings=ManagerSettings(), directory=self.store.directory, now=self.now
        )
        self.driver = ManagerDriver(self.manager, self.store, reply=self._reply)

    def _reply(self, _route: bytes, reply: Reply) -> None:
        self.answers += 1
        decode_replies(encode_replies(Replies(PROTOCOL_VERSION, -1, 0, 0, [reply])))

    def take(self, route: bytes, batch: Requests) -> None:
        for request in batch.requests:
            assert isinstance(request, ManagementRequest)
            if isinstance(request, Register) and not is_connectable(request.endpoint):
                continue
            self.driver.carry_out(self.manager.on_request(route, request, self.now), self.now)

    def wake_up(self) -> None:
        self.driver.refresh(self.now)
        self.driver.carry_out(self.manager.on_tick(self.now), self.now)
        for _, _, batch in self.driver.take_batches():
            decode_requests(encode_requests(batch))
        self.manager.figures(self.now)


def test_a_manager_goes_on() -> None:
    desk = Desk()
    for seed in range(ROUNDS):
        absurd = Absurd(seed)
        for _ in range(40):
            absurd.likely = [0, 0, 1, 1, 2, 3, desk.manager.directory.epoch]
            kinds = [absurd.rng.choice([*EVERY_MANAGEMENT_REQUEST, Register])]
            incarnation = absurd.of(int) % 2**64
            batch = batch_of(absurd, [absurd.of(kind) for kind in kinds], incarnation)
            desk.take(absurd.rng.choice(ROUTES), batch)
            for entry in desk.manager.directory.nodes[:3]:
                likely = [*absurd.likely, entry.incarnation, entry.incarnation, entry.starts]
                absurd.likely = likely
                replies = [absurd.of(absurd.rng.choice([*EVERY_REPLY, *[ProbeReply] * 8]))]
                said = Replies(
                    PROTOCOL_VERSION, 0, entry.incarnation, absurd.of(int) % 2**62, replies
                )
                said = decode_replies(encode_replies(said))
                effects = desk.manager.on_replies(entry.node, said, desk.now)
                desk.driver.carry_out(effects, desk.now)
            desk.now += absurd.rng.choice([0.0, 0.1, 0.3, 3.0])
            desk.wake_up()
        if seed % 8 == 7:
            desk.begin()
    assert desk.answers


class Listener:
    """A client's coordinator that is told the most absurd things while it executes something."""

    def __init__(self, seed: int) -> None:
        self.now = 100.0
        self.counter = 0
        self.absurd = Absurd(seed)
        entries = [
            MemoryNodeEntry(
                node=MemoryNodeId(node),
                endpoint=ENDPOINTS[0],
                capacity=CAPACITY,
                mode="LOG",
                identity="me",
                incarnation=1,
                starts=1,
                config_epoch=1,
            )
            for node in range(2)
        ]
        self.coordinator = Coordinator(client=7, rng=self.absurd.rng, directory=directory(*entries))
        self.inquiry = LoadInquiry([NODE])
        self.coordinator.ask_for_load(self.inquiry, self.now)
        self.outcomes = Counter[str]()

    def begin(self) -> None:
        rng = self.absurd.rng
        on_failure = rng.random() < 0.5
        wanted: Minitransaction[Any] = Minitransaction(NOBODY, reads_on_failure=on_failure)
        for node in rng.sample([0, 1], rng.choice([1, 2])):
            wanted.compare(node, 0, b"x")
            wanted.check(node, 8, Relation.LESS, 5)
            wanted.read(node, 0, 8)
            if rng.random() < 0.7:
                wanted.write(node, 0, b"y")
                wanted.add(node, 16, 1)
                wanted.append(node, 64, b"z")
        try:
            self.coordinator.begin(wanted, now=self.now, deadline=self.now + 1.0)
            self.counter += 1
            self.coordinator.watch(NODE, 0, 8, now=self.now)
        except OutOfRange:
            self.outcomes["refused"] += 1  # it was told of a memory node with few bytes

    def listen(self) -> None:
        coordinator, absurd = self.coordinator, self.absurd
        node = MemoryNodeId(absurd.rng.choice([0, 1]))
        counters = range(max(1, self.counter - 3), self.counter + 1)
        absurd.likely = [0, 0, 1, 1, 2, 7, *counters]
        replies = [absurd.of(absurd.rng.choice([*EVERY_REPLY, *[Voted] * 20]))]
        said = Replies(PROTOCOL_VERSION, node, coordinator.known.incarnations[node], 0, replies)
        said = decode_replies(encode_replies(said))
        for send in coordinator.on_replies(node, said, self.now):
            encode_requests(coordinator.envelope(send.node, [send.request]))
        for send in coordinator.on_tick(self.now):
            encode_requests(coordinator.envelope(send.node, [send.request]))
        coordinator.watching.check_invariants()
        for call in coordinator.take_finished():
            if call.error is not None:
                self.outcomes[type(call.error).__name__] += 1
                continue
            assert call.result is not None
            self.check(call.minitransaction, call.result)

    def check(self, wanted: Minitransaction[Any], result: Result) -> None:
        """A result is what its caller may rely on, however it came about."""
        self.outcomes["committed" if result.committed else "failed"] += 1
        if result.committed:
            assert len(result.reads) == len(wanted.read_places)
            assert len(result.added) == len(wanted.add_places)
            assert len(result.positions) == len(wanted.append_places)
            assert not result.failed_compares
            assert not result.full_rings
        else:
            assert len(result.reads) in (0, len(wanted.read_places))
            assert result.failed_compares or result.full_rings


def test_a_client_believes_no_nonsense() -> None:
    outcomes = Counter[str]()
    for seed in range(ROUNDS):
        listener = Listener(seed)
        for _ in range(60):
            listener.begin()
            for _ in range(2):
                listener.listen()
            listener.now += listener.absurd.rng.choice([0.0, 0.01, 0.3])
        outcomes += listener.outcomes
    assert {"committed", "failed", "OutcomeUnknown"} <= outcomes.keys(), outcomes
