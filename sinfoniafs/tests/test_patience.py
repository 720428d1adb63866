"""A request ends in time, and the outcome of its change is known before it is reported."""

import stat
from collections.abc import Callable
from typing import Any, cast

import pytest
import trio

from sinfonia.errors import NotExecuted, OutcomeUnknown, TimedOut
from sinfonia.minitransaction import Minitransaction, Result
from sinfonia.protocol.identifiers import Tid
from sinfoniafs.attributes import Changes, InodeNumber, Place
from sinfoniafs.key_locks import KeyLocks
from sinfoniafs.patience import changing, limited, time_left
from sinfoniafs.patient_cluster import PatientCluster
from sinfoniafs.privileges import without_set_id
from sinfoniafs.testing import OWNER, Site, on_volume
from sinfoniafs.volume import contents, namespace
from sinfoniafs.volume.inode_attributes import get_attributes, set_attributes
from sinfoniafs.volume.mounting import close_volume, open_volume
from sinfoniafs.volume.rename import rename


def tid(number: int) -> Tid:
    """A tid for the model, which takes any value."""
    return cast("Tid", ("tid", number))


class LostReplies:
    """Loses the reply to each minitransaction that writes, ``executed`` or not."""

    def __init__(self, site: Site, *, executed: bool) -> None:
        self.lost = 0
        if executed:
            site.cluster.after_execute = lambda each, _: self._lose(each)
        else:
            site.cluster.before_execute = self._lose

    def _lose(self, minitransaction: Minitransaction[Any]) -> None:
        if not minitransaction.read_only:
            self.lost += 1
            raise OutcomeUnknown("the reply was lost", tid(self.lost))


CHANGES: dict[str, Callable[[Site, InodeNumber], Any]] = {
    "write": lambda site, file: contents.write(site.volume, file, 5, b"changed"),
    "append": lambda site, file: contents.append(site.volume, file, b"changed"),
    "truncate": lambda site, file: set_attributes(site.volume, file, Changes(size=1)),
    "create": lambda site, _: namespace.create(
        site.volume, site.root, b"new", mode=0o644, owner=OWNER
    ),
    "rename": lambda site, _: rename(
        site.volume, Place(site.root, b"file"), Place(site.root, b"renamed")
    ),
    "unlink": lambda site, _: namespace.unlink(site.volume, site.root, b"file"),
    "chmod": lambda site, _: set_attributes(site.volume, site.root, Changes(mode=0o700)),
}


async def look(site: Site) -> tuple[Any, ...]:
    """All that a change can change."""
    names = await site.names()
    found = [await namespace.lookup(site.volume, site.root, name) for name in sorted(names)]
    texts = [await contents.read(site.volume, each.inode, 0, 100) for each in found]
    return names, texts, (await get_attributes(site.volume, site.root)).mode


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_happened_unseen_is_reported_as_done(
    change: Callable[[Site, InodeNumber], Any],
) -> None:
    async def body(site: Site) -> None:
        file = await site.file(b"file", b"0123456789")
        before = await look(site)
        replies = LostReplies(site, executed=True)
        await change(site, file)
        site.cluster.after_execute = None
        assert replies.lost >= 1
        assert await look(site) != before

    on_volume(body)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_never_happened_is_reported_as_such(
    change: Callable[[Site, InodeNumber], Any],
) -> None:
    async def body(site: Site) -> None:
        file = await site.file(b"file", b"0123456789")
        before = await look(site)
        replies = LostReplies(site, executed=False)
        with pytest.raises(NotExecuted):
            await change(site, file)
        site.cluster.before_execute = None
        assert replies.lost == 1
        assert await look(site) == before

    on_volume(body)


def test_attributes_read_along_with_a_lost_reply_are_those_of_the_directory() -> None:
    async def body(site: Site) -> None:
        await set_attributes(site.volume, site.root, Changes(mtime_ns=77))
        LostReplies(site, executed=True)
        changed = await set_attributes(site.volume, site.root, Changes(mode=0o711))
        site.cluster.after_execute = None
        assert (stat.S_IMODE(changed.mode), changed.mtime_ns) == (0o711, 77)

    on_volume(body)


def test_every_minitransaction_of_a_request_gets_what_is_left_of_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body(site: Site) -> None:
        timeouts: list[float | None] = []
        execute = site.cluster.execute

        async def slow(each: Minitransaction[Any], *, timeout: float | None = None) -> Result:
            timeouts.append(timeout)
            await trio.sleep(4)
            return await execute(each, timeout=timeout)

        volume = await open_volume(site.cluster, clock=site.clock, timeout=7.0)
        with monkeypatch.context() as patch:
            patch.setattr(site.cluster, "execute", slow)
            with limited(10.0):
                await get_attributes(volume, site.root)
                await set_attributes(volume, site.root, Changes(mode=0o700))
                await get_attributes(volume, site.root)
                with pytest.raises(TimedOut):
                    await set_attributes(volume, site.root, Changes(mode=0o700))
            await set_attributes(volume, site.root, Changes(mode=0o755))
        # The model's own reads have no limit; the third change is not even tried.
        assert [each for each in timeouts if each is not None] == [6.0, 7.0]
        await close_volume(volume)

    on_volume(body, virtual_time=True)


def test_a_request_waits_for_a_lock_in_its_own_time() -> None:
    async def main() -> None:
        key_locks = KeyLocks()
        await key_locks.acquire("key")
        with limited(3.0), pytest.raises(TimedOut):
            await key_locks.acquire("key")
        key_locks.release("key")
        assert not key_locks.is_held("key")
        assert time_left(otherwise=5.0) == 5.0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_an_interrupt_waits_for_a_change_and_a_kill_does_not() -> None:
    async def main() -> None:
        for kill in (False, True):
            done = False
            with limited(30.0) as patience:
                with changing():
                    (patience.abandon if kill else patience.interrupt)()
                    await trio.sleep(1)
                    done = True
                await trio.sleep(1)
                pytest.fail("it was not given up")
            assert patience.scope.cancelled_caught
            assert done == (not kill)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_an_outcome_that_cannot_be_found_out_stays_unknown() -> None:
    async def body(site: Site) -> None:
        def lose(each: Minitransaction[Any], _: Result) -> None:
            if not each.read_only:
                raise OutcomeUnknown("the reply was lost", None)

        cluster = PatientCluster(site.cluster, 5.0)
        site.cluster.after_execute = lose
        with pytest.raises(OutcomeUnknown):
            await cluster.write(0, 8 * 1024 * 1024, b"")
        site.cluster.after_execute = None

    on_volume(body)


@pytest.mark.parametrize(
    ("before", "after"),
    [(0o6777, 0o777), (0o2644, 0o2644), (0o2654, 0o654), (0o4755, 0o755), (0o1777, 0o1777)],
)
def test_set_id_bits_go_as_on_linux(before: int, after: int) -> None:
    assert without_set_id(before) == after
