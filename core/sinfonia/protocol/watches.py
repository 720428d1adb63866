"""A watch is a promise to be told soon, never a promise about what is there.

A commit that touches a watched range makes the memory node say so, unasked, to the clients that
watch it.  Such a hint may be lost, doubled or late, and readers read to know; so nothing here is
logged or replicated, and a new life of the memory node begins with no watches at all.

What cannot be lost is that *something was missed*.  Every watch has a *moment*: the number of the
touch or arming that came last to it, counted over all watches of this life.  It grows with each
commit that touches the range, and an arming gets a moment that no answer ever named before.  So a
client that renews its watches learns from the moments in the answer whether a hint was lost, or the
watch itself.

A commit must not pay for watchers it does not have: ``armed`` is False while there are none, and
else ``touch`` looks only where a watch can be.  Watches of the same range share one entry; entries
lie in buckets, each on the level whose buckets are just as long as the range or longer::

    level  6   | 64 B | 64 B | 64 B | ...        words, inodes
    level  9   |    512 B    |    512 B    | ...
    level 12   |            4 KiB            | ...     and so on, by eights, to the whole memory

so that an entry lies in one bucket or two, and a bucket holds few entries that are much shorter.
Levels and buckets without entries do not exist.
"""

from collections.abc import Iterable

from sinfonia.minitransaction import WriteItem
from sinfonia.protocol.messages import Hints, Unwatch, Watch, WatchRange

# Watches end that are not renewed for so long (seconds), their client being dead or cut off.
WATCH_LEASE = 20.0

# Watches of one client, and of one memory node: each takes about a kilobyte, so 64 MB at most.
WATCHES_PER_CLIENT_MAX = 16 * 1024
WATCHES_MAX = 64 * 1024

# One request arms or renews so many, which takes the memory node about a millisecond; further ones
# in the request are ignored, as if the request had been lost.
WATCHES_PER_REQUEST_MAX = 1024

# Hints given out at a time, each perhaps a message of its own: a few milliseconds.  What is beyond
# them, because many watch one range, leaves at the next wake-ups.
HINTS_AT_ONCE_MAX = 256

# The shortest buckets hold 2 ** 6 bytes, those of the next level 8 times as many.
_LOWEST_LEVEL = 6
_LEVEL_STEP = 3

Key = tuple[int, int]  # (client, the client's number of the watch)
Place = tuple[int, int]  # [start, end)


class _Entry:
    """One watched range, however many watch it."""

    __slots__ = ("end", "moment", "start", "watchers")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.moment = 0
        self.watchers: dict[Key, _Armed] = {}


class _Armed:
    """One watch."""

    __slots__ = ("armed_at", "client", "entry", "expires", "key")

    def __init__(self, key: Key, client: "_Client", entry: _Entry, armed_at: int) -> None:
        self.key = key
        self.client = client
        self.entry = entry
        self.armed_at = armed_at
        self.expires = 0.0

    @property
    def moment(self) -> int:
        # The entry may have been touched for others before this watch was armed.
        return max(self.armed_at, self.entry.moment)


class _Client:
    """A client that watches, and the route on which it is sent hints."""

    __slots__ = ("client", "route", "watches")

    def __init__(self, client: int, route: bytes) -> None:
        self.client = client
        self.route = route
        self.watches: dict[int, _Armed] = {}


class Watches:
    """All watches of one life of a memory node; times are monotonic seconds."""

    def __init__(self, capacity: int) -> None:
        """``capacity`` of the memory node, in bytes."""
        # The one thing that a commit looks at if there are no watches.
        self.armed = False
        self._capacity = capacity
        self._moment = 0
        # In the order in which they expire.
        self._watches: dict[Key, _Armed] = {}
        self._entries: dict[Place, _Entry] = {}
        self._levels: dict[int, dict[int, dict[Place, _Entry]]] = {}
        self._clients: dict[int, _Client] = {}
        self._by_route: dict[bytes, dict[int, _Client]] = {}
        # Entries whose watchers must be told, and the watchers that are being told, in batches.
        self._touched: dict[Place, _Entry] = {}
        self._telling: list[_Armed] = []

    def __len__(self) -> int:
        return len(self._watches)

    # --- requests ------------------------------------------------------------------------------

    def on_watch(self, route: bytes, client: int, request: Watch, now: float) -> Hints:
        """Arm watches of ``client``, or renew them; hints go to ``route`` from now on.

        The answer names the moment of each, and those that are refused because they are beyond
        the memory node's capacity, or too many.
        """
        wanted = request.watches[:WATCHES_PER_REQUEST_MAX]
        moments: list[tuple[int, int]] = []
        refused: list[int] = []
        self._be_reached(client, route)
        for watch in wanted:
            armed = self._renewed(client, watch) or self._arm(client, watch, route)
            if armed is None:
                refused.append(watch.number)
                continue
            armed.expires = now + WATCH_LEASE
            self._watches[armed.key] = armed
            moments.append((watch.number, armed.moment))
        return Hints(moments, refused)

    def on_unwatch(self, route: bytes, client: int, request: Unwatch) -> None:
        """These watches of ``client`` are over."""
        del route
        for number in request.numbers:
            armed = self._watches.get((client, number))
            if armed is not None:
                self._end(armed)

    def _renewed(self, client: int, watch: WatchRange) -> _Armed | None:
        """The watch of this number taken out of the order of expiry, if it watches this range."""
        armed = self._watches.get((client, watch.number))
        if armed is None:
            return None
        entry = armed.entry
        if (entry.start, entry.end) != (watch.address, watch.address + watch.length):
            self._end(armed)
            return None
        return self._watches.pop((client, watch.number))

    def _arm(self, client: int, watch: WatchRange, route: bytes) -> _Armed | None:
        """A new watch, unless it is refused."""
        end = watch.address + watch.length
        known = self._clients.get(client)
        if (
            watch.length == 0
            or end > self._capacity
            or len(self._watches) >= WATCHES_MAX
            or (known is not None and len(known.watches) >= WATCHES_PER_CLIENT_MAX)
        ):
            return None
        if known is None:
            known = self._clients[client] = _Client(client, route)
            self._by_route.setdefault(route, {})[client] = known
        entry = self._entry(watch.address, end)
        self._moment += 1
        armed = _Armed((client, watch.number), known, entry, self._moment)
        entry.watchers[armed.key] = known.watches[watch.number] = armed
        self.armed = True
        return armed

    def _be_reached(self, client: int, route: bytes) -> None:
        known = self._clients.get(client)
        if known is not None and known.route != route:
            self._leave_route(known)
            known.route = route
            self._by_route.setdefault(route, {})[client] = known

    def _leave_route(self, client: _Client) -> None:
        there = self._by_route[client.route]
        del there[client.client]
        if not there:
            del self._by_route[client.route]

    # --- commits -------------------------------------------------------------------------------

    def touch_all(self, writes: Iterable[WriteItem]) -> None:
        """A commit has written ``writes``."""
        for item in writes:
            self.touch(item.address, len(item.data))

    def touch(self, address: int, length: int) -> None:
        """A commit has written the ``length`` bytes at ``address``."""
        if not length:
            return
        end = address + length
        for level, buckets in self._levels.items():
            first, last = address >> level, (end - 1) >> level
            if first == last:
                here = buckets.get(first)
                if here is not None:
                    self._touch_among(here, address, end)
            elif last - first < len(buckets):
                for number in range(first, last + 1):
                    here = buckets.get(number)
                    if here is not None:
                        self._touch_among(here, address, end)
            else:
                for number, here in buckets.items():
                    if first <= number <= last:
                        self._touch_among(here, address, end)

    def _touch_among(self, here: dict[Place, _Entry], start: int, end: int) -> None:
        for place, entry in here.items():
            if place[0] < end and start < place[1]:
                self._moment += 1
                entry.moment = self._moment
                self._touched[place] = entry

    def take_hints(self) -> list[tuple[bytes, Hints]]:
        """What to say, and over which route: at most HINTS_AT_ONCE_MAX hints, the oldest first.

        However often a watch was touched since the last time, it is named once.
        """
        if not self._touched and not self._telling:
            return []
        by_route: dict[bytes, list[tuple[int, int]]] = {}
        for _ in range(HINTS_AT_ONCE_MAX):
            armed = self._next_to_tell()
            if armed is None:
                break
            by_route.setdefault(armed.client.route, []).append((armed.key[1], armed.moment))
        return [(route, Hints(moments)) for route, moments in by_route.items()]

    def _next_to_tell(self) -> _Armed | None:
        while True:
            while self._telling:
                armed = self._telling.pop()
                if self._watches.get(armed.key) is armed:
                    return armed
            if not self._touched:
                return None
            entry = self._touched.pop(next(iter(self._touched)))
            self._telling = list(reversed(entry.watchers.values()))

    # --- time, and clients that are gone -------------------------------------------------------

    def on_tick(self, now: float) -> None:
        """Time has passed: watches that were not renewed end."""
        while self._watches:
            oldest = next(iter(self._watches.values()))
            if oldest.expires > now:
                return
            self._end(oldest)

    def next_wakeup(self) -> float | None:
        """When ``on_tick`` and ``take_hints`` must be called next; None: not before an event."""
        if self._touched or self._telling:
            return 0.0
        if not self._watches:
            return None
        return next(iter(self._watches.values())).expires

    def forget(self, route: bytes) -> None:
        """The client is gone: a hint could not be delivered.

        If the client is alive after all, its renewal arms its watches again.
        """
        for client in list(self._by_route.get(route, {}).values()):
            for armed in list(client.watches.values()):
                self._end(armed)

    def _end(self, armed: _Armed) -> None:
        del self._watches[armed.key]
        entry, client = armed.entry, armed.client
        del entry.watchers[armed.key]
        if not entry.watchers:
            self._drop_entry(entry)
        del client.watches[armed.key[1]]
        if not client.watches:
            self._leave_route(client)
            del self._clients[client.client]
        self.armed = bool(self._watches)

    # --- the index -----------------------------------------------------------------------------

    def _entry(self, start: int, end: int) -> _Entry:
        entry = self._entries.get((start, end))
        if entry is None:
            entry = self._entries[start, end] = _Entry(start, end)
            level = _level_of(end - start)
            buckets = self._levels.setdefault(level, {})
            for number in _buckets_of(entry, level):
                buckets.setdefault(number, {})[start, end] = entry
        return entry

    def _drop_entry(self, entry: _Entry) -> None:
        place = entry.start, entry.end
        del self._entries[place]
        self._touched.pop(place, None)
        level = _level_of(entry.end - entry.start)
        buckets = self._levels[level]
        for number in _buckets_of(entry, level):
            here = buckets[number]
            del here[place]
            if not here:
                del buckets[number]
        if not buckets:
            del self._levels[level]

    def check_invariants(self) -> None:
        """Every watch is indexed, counted and reachable, and nothing else is."""
        assert self.armed == bool(self._watches)
        expires = [armed.expires for armed in self._watches.values()]
        assert expires == sorted(expires)
        watchers = {key for entry in self._entries.values() for key in entry.watchers}
        assert watchers == self._watches.keys()
        assert all(entry.watchers for entry in self._entries.values())
        indexed = {
            (level, number, place)
            for level, buckets in self._levels.items()
            for number, here in buckets.items()
            for place in here
        }
        expected = {
            (_level_of(end - start), number, (start, end))
            for (start, end), entry in self._entries.items()
            for number in _buckets_of(entry, _level_of(end - start))
        }
        assert indexed == expected
        for client in self._clients.values():
            assert client.watches
            for number, armed in client.watches.items():
                assert self._watches[client.client, number] is armed
            assert self._by_route[client.route][client.client] is client
        assert sum(map(len, self._by_route.values())) == len(self._clients)
        assert sum(len(client.watches) for client in self._clients.values()) == len(self._watches)
        assert self._touched.keys() <= self._entries.keys()


def _level_of(length: int) -> int:
    """The lowest level whose buckets are as long as ``length`` or longer."""
    above = max(0, (length - 1).bit_length() - _LOWEST_LEVEL)
    return _LOWEST_LEVEL + -(-above // _LEVEL_STEP) * _LEVEL_STEP


def _buckets_of(entry: _Entry, level: int) -> Iterable[int]:
    return range(entry.start >> level, ((entry.end - 1) >> level) + 1)
