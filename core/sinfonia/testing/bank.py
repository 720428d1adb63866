"""A bank of transfers: whatever breaks, the sum is exact and no acknowledged transfer is lost.

Each memory node holds a few accounts, and a ledger for each teller.  A transfer moves money between
two accounts and enters itself into the ledgers of their memory nodes, all in one minitransaction.
So every snapshot of all accounts has the same sum; and afterwards the ledgers say which transfers
happened, which must be all that were acknowledged, and the balances follow from them alone: what
happened twice, or half, would show.

``python -m sinfonia.testing.bank ENDPOINT TELLER`` is one teller as a process, to be killed: it
prints the number of each transfer once that is acknowledged.
"""

import random
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Self

from sinfonia.client.blocking import BlockingCluster, connect_blocking

NODES = 3
ACCOUNTS_PER_NODE = 4
OPENING_BALANCE = 1_000
AMOUNT_MAX = 100

# "No call fails that had time left": so much is more than any recovery may take.
CALL_TIMEOUT = 30.0

# Some hundred transfers a second leave the processor to those that are to recover.
PACE = 0.005

_BALANCE = struct.Struct(">q")
_ENTRY = struct.Struct(">QBBBBQ")
_ENTRY_SIZE = 32

# Behind the accounts; each teller has room for some ten thousand transfers.
_LEDGERS = 1 << 20
_LEDGER_SIZE = 1 << 20
_LEDGER_ENTRIES = _LEDGER_SIZE // _ENTRY_SIZE


@dataclass(frozen=True, slots=True)
class Account:
    """One account."""

    node: int
    index: int

    @property
    def address(self) -> int:
        """Where its balance is."""
        return self.index * _BALANCE.size


ACCOUNTS = [Account(node, index) for node in range(NODES) for index in range(ACCOUNTS_PER_NODE)]


@dataclass(frozen=True, slots=True)
class Transfer:
    """What a ledger says; a teller numbers its transfers from 1, without gaps."""

    number: int
    source: Account
    target: Account
    amount: int

    @classmethod
    def at_random(cls, number: int, rng: random.Random) -> Self:
        """Any amount between any two accounts, mostly of different memory nodes."""
        source, target = rng.sample(ACCOUNTS, 2)
        return cls(number, source, target, rng.randint(1, AMOUNT_MAX))

    @classmethod
    def decode(cls, entry: bytes) -> Self | None:
        """The transfer entered there; None if nothing was."""
        number, *places, amount = _ENTRY.unpack_from(entry)
        source, target = Account(*places[:2]), Account(*places[2:])
        return cls(number, source, target, amount) if number else None

    def encode(self) -> bytes:
        """The inverse of ``decode``."""
        places = (self.source.node, self.source.index, self.target.node, self.target.index)
        return _ENTRY.pack(self.number, *places, self.amount).ljust(_ENTRY_SIZE, b"\0")

    @property
    def nodes(self) -> set[int]:
        """The memory nodes that take part."""
        return {self.source.node, self.target.node}


class Desk:
    """Where one teller works.  ``longest_call``: how long a minitransaction took, in seconds."""

    def __init__(self, cluster: BlockingCluster, teller: int) -> None:
        self.longest_call = 0.0
        self._cluster = cluster
        self._teller = teller
        self._rng = random.Random(teller)
        self._balances = dict.fromkeys(ACCOUNTS, OPENING_BALANCE)

    def transfer(self, number: int) -> None:
        """Make one transfer; returns when it is acknowledged.  Raises SinfoniaError."""
        transfer = Transfer.at_random(number, self._rng)
        while not self._attempt(transfer):
            pass  # others were at these accounts; now their balances are known

    def _attempt(self, transfer: Transfer) -> bool:
        minitransaction = self._cluster.minitransaction()
        accounts = (transfer.source, transfer.target)
        for account, change in zip(accounts, (-transfer.amount, transfer.amount), strict=True):
            balance = self._balances[account]
            minitransaction.compare(account.node, account.address, _BALANCE.pack(balance))
            minitransaction.write(account.node, account.address, _BALANCE.pack(balance + change))
        for node in transfer.nodes:
            place = entry_address(self._teller, transfer.number)
            minitransaction.write(node, place, transfer.encode())
        begun = time.monotonic()
        result = minitransaction.execute(CALL_TIMEOUT)
        self.longest_call = max(self.longest_call, time.monotonic() - begun)
        for failed in result.failed_compares:
            self._balances[accounts[failed.index]] = _BALANCE.unpack(failed.found)[0]
        if result.committed:
            self._balances[transfer.source] -= transfer.amount
            self._balances[transfer.target] += transfer.amount
        return result.committed


class Worker(threading.Thread):
    """Does one thing again and again, and stops at the first error; subclasses say what."""

    def __init__(self) -> None:
        super().__init__(daemon=True)  # a failed test does not wait for it
        self.done = 0
        self.error: Exception | None = None
        self._progress = threading.Condition()
        self._stopping = threading.Event()

    def do_once(self) -> None:
        """One piece of work, with its check."""
        raise NotImplementedError

    def run(self) -> None:
        """Work until ``stop``."""
        try:
            while not self._stopping.wait(PACE):
                self.do_once()
                with self._progress:
                    self.done += 1
                    self._progress.notify_all()
        except Exception as error:  # noqa: BLE001 - the thread that waits for it raises it
            with self._progress:
                self.error = error
                self._progress.notify_all()

    def wait_for(self, goal: int) -> None:
        """Until so much is done."""
        with self._progress:
            self._progress.wait_for(lambda: self.error or self.done >= goal, CALL_TIMEOUT)
            if self.error is not None:
                raise self.error
            assert self.done >= goal, f"{self.name} does not get on"

    def stop(self) -> None:
        """Do nothing more after what is under way."""
        self._stopping.set()

    def finish(self) -> None:
        """Wait for the end, and raise what went wrong."""
        self.join(2 * CALL_TIMEOUT)
        assert not self.is_alive(), f"{self.name} does not end"
        if self.error is not None:
            raise self.error


class Teller(Worker):
    """Makes transfers; ``done`` of them were acknowledged."""

    def __init__(self, cluster: BlockingCluster, number: int) -> None:
        super().__init__()
        self.number = number
        self.desk = Desk(cluster, number)

    def do_once(self) -> None:
        """One transfer."""
        self.desk.transfer(self.done + 1)


class Reader(Worker):
    """Reads all accounts at once; the sum must be exact every time."""

    def __init__(self, cluster: BlockingCluster) -> None:
        super().__init__()
        self._cluster = cluster

    def do_once(self) -> None:
        """One snapshot."""
        total = sum(read_balances(self._cluster).values())
        assert total == OPENING_BALANCE * len(ACCOUNTS), f"a snapshot has the sum {total}"


class Bank:
    """Tellers and readers at work."""

    def __init__(self, endpoint: str, tellers: list[Teller], readers: list[Reader]) -> None:
        self._endpoint = endpoint
        self._tellers = tellers
        self._workers: list[Worker] = [*tellers, *readers]

    def wait_for_more(self, transfers: int = 20) -> None:
        """Until every teller has made so many more, and every reader has read again."""
        goals = [(teller, teller.done + transfers) for teller in self._tellers]
        reads = [(each, each.done + 2) for each in self._workers if isinstance(each, Reader)]
        for worker, goal in [*goals, *reads]:
            worker.wait_for(goal)

    @property
    def transfers(self) -> int:
        """How many were acknowledged."""
        return sum(teller.done for teller in self._tellers)

    @property
    def longest_call(self) -> float:
        """The longest that a minitransaction of a teller took, since ``begin_to_measure``."""
        return max(teller.desk.longest_call for teller in self._tellers)

    def begin_to_measure(self) -> None:
        """What was before counts no more."""
        for teller in self._tellers:
            teller.desk.longest_call = 0.0

    def start(self) -> None:
        """Open for business."""
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """Close; raises what went wrong at any desk."""
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            worker.finish()

    def audit(self) -> None:
        """Every acknowledged transfer happened, once and whole, and nothing else did."""
        audit(self._endpoint, {teller.number: teller.done for teller in self._tellers})


@contextmanager
def bank_under_load(endpoint: str, *, tellers: int = 3, readers: int = 1) -> Iterator[Bank]:
    """A new bank that works until the end of the block, and is audited then."""
    with connect_blocking(endpoint) as cluster:
        open_accounts(cluster)
        bank = Bank(
            endpoint,
            [Teller(cluster, number) for number in range(tellers)],
            [Reader(cluster) for _ in range(readers)],
        )
        bank.start()
        try:
            bank.wait_for_more()
            yield bank
        except BaseException:
            with suppress(Exception):  # the first error is the one to see
                bank.stop()
            raise
        bank.stop()
    bank.audit()


def open_accounts(cluster: BlockingCluster) -> None:
    """Every account begins with the same balance."""
    minitransaction = cluster.minitransaction()
    for account in ACCOUNTS:
        minitransaction.write(account.node, account.address, _BALANCE.pack(OPENING_BALANCE))
    minitransaction.execute(CALL_TIMEOUT)


def read_balances(cluster: BlockingCluster) -> dict[Account, int]:
    """All balances at one moment."""
    minitransaction = cluster.minitransaction()
    for account in ACCOUNTS:
        minitransaction.read(account.node, account.address, _BALANCE.size)
    reads = minitransaction.execute(CALL_TIMEOUT).reads
    balances = (_BALANCE.unpack(read)[0] for read in reads)
    return dict(zip(ACCOUNTS, balances, strict=True))


def audit(endpoint: str, acknowledged: Mapping[int, int]) -> None:
    """Check the ledgers of tellers, by how many transfers of each were acknowledged.

    One more may have happened: of a teller that was killed before it heard of it.
    """
    with connect_blocking(endpoint) as cluster:
        balances = dict.fromkeys(ACCOUNTS, OPENING_BALANCE)
        for teller, number in acknowledged.items():
            transfers = read_ledger(cluster, teller, number + 1)
            missing = set(range(1, number + 1)) - {transfer.number for transfer in transfers}
            assert not missing, f"teller {teller}: acknowledged transfers {missing} are lost"
            for transfer in transfers:
                balances[transfer.source] -= transfer.amount
                balances[transfer.target] += transfer.amount
        assert read_balances(cluster) == balances, "balances do not follow from the ledgers"


def read_ledger(cluster: BlockingCluster, teller: int, entries: int) -> list[Transfer]:
    """The transfers among the first ``entries``; each stands at all of its memory nodes."""
    assert entries <= _LEDGER_ENTRIES, f"teller {teller} has filled its ledger"
    minitransaction = cluster.minitransaction()
    begin = entry_address(teller, 1)
    for node in range(NODES):
        minitransaction.read(node, begin, entries * _ENTRY_SIZE)
    ledgers = minitransaction.execute(CALL_TIMEOUT).reads
    found = []
    for place in range(0, entries * _ENTRY_SIZE, _ENTRY_SIZE):
        copies = [Transfer.decode(ledger[place : place + _ENTRY_SIZE]) for ledger in ledgers]
        transfers = {copy for copy in copies if copy is not None}
        assert len(transfers) <= 1, f"teller {teller}: one transfer is entered as {transfers}"
        for transfer in transfers:
            there = {node for node, copy in enumerate(copies) if copy is not None}
            assert there == transfer.nodes, f"{transfer} is entered at {there} only"
            found.append(transfer)
    return found


def entry_address(teller: int, number: int) -> int:
    """Where a ledger has the transfer ``number`` of ``teller``."""
    return _LEDGERS + teller * _LEDGER_SIZE + (number - 1) * _ENTRY_SIZE


def main() -> None:
    """Work as one teller until the process is killed."""
    endpoint, teller = sys.argv[1], int(sys.argv[2])
    with connect_blocking(endpoint) as cluster:
        desk = Desk(cluster, teller)
        number = 0
        while True:
            number += 1
            desk.transfer(number)
            print(number, flush=True)  # noqa: T201 - the test counts on it


if __name__ == "__main__":
    main()
