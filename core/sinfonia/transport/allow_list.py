"""A peer may connect while its key is on the allow-list; when the key is taken off, no longer.

A directory has a file ``NAME.pub`` for each key::

    role = "client"        # or "operator", or "node"; see permissions.py
    public = "..."

The directory is read about once a second, and sooner when a peer connects whose key is not on the
list.  A file that makes no sense allows no key and leaves the other files as they are.  A directory
that is gone allows no key at all.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from sinfonia.errors import ConfigError
from sinfonia.transport.keys import (
    PUBLIC_SUFFIX,
    key_in,
    parse_key_file,
    read_key_file,
    refuse_changeable,
)
from sinfonia.transport.permissions import Role

log = logging.getLogger(__name__)

# A revoked key is noticed so soon, in seconds.
LOOK_EVERY = 1.0

# An unknown key may be a new one; but peers with unknown keys must not keep the process reading.
LOOK_AGAIN_AFTER = 0.1

# More files than this are not read: looking at them must not stop the loop for long.
ALLOWED_MAX = 4096

_Signature = tuple[tuple[str, int, int, int], ...]


class Allowed(NamedTuple):
    """A peer that may connect."""

    name: str
    role: Role


class AllowList:
    """The peers that may connect, by public key."""

    def __init__(self, directory: Path, now: float) -> None:
        """``now`` is monotonic, in seconds, here and below.  Raises ConfigError."""
        self.changes = 0
        self._directory = directory
        self._looked_at = now
        self._trouble = ""
        try:
            self._signature = _state_of(directory)
        except OSError as error:
            raise ConfigError(f"cannot use the allow-list {directory}: {error.strerror}") from error
        self._allowed = _read(directory, self._signature)

    @property
    def allowed(self) -> Mapping[str, Allowed]:
        """By public key, in Z85."""
        return self._allowed

    def admits(self, public: str, now: float) -> bool:
        """Whether the holder of ``public`` may connect."""
        if public not in self._allowed and now - self._looked_at >= LOOK_AGAIN_AFTER:
            self._look(now)
        return public in self._allowed

    def refresh(self, now: float) -> None:
        """Look at the directory, if it is time to; ``changes`` counts what was found."""
        if now - self._looked_at >= LOOK_EVERY:
            self._look(now)

    def _look(self, now: float) -> None:
        self._looked_at = now
        try:
            signature = _state_of(self._directory)
        except OSError as error:
            # No reason to cut all peers off: what was true a second ago stays so.
            trouble = error.strerror or str(error)
            if trouble != self._trouble:
                self._trouble = trouble
                log.warning("allow-list directory=%s error=%s", self._directory, trouble)
            return
        self._trouble = ""
        if signature == self._signature:
            return
        former, self._allowed = self._allowed, _read(self._directory, signature)
        self._signature = signature
        for name in _names(former) - _names(self._allowed):
            log.info("revoked client=%s", name)
        for name in _names(self._allowed) - _names(former):
            log.info("allowed client=%s", name)
        self.changes += 1


def _state_of(directory: Path) -> _Signature:
    """What tells one state of the directory from another.  Raises OSError."""
    found = sorted(_entries(directory))
    if len(found) > ALLOWED_MAX:
        # What is left out is part of the state, so that it is said of each state once.
        return (*found[:ALLOWED_MAX], ("", len(found) - ALLOWED_MAX, 0, 0))
    return tuple(found)


def _entries(directory: Path) -> Iterator[tuple[str, int, int, int]]:
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith(PUBLIC_SUFFIX):
                    try:
                        found = entry.stat()
                    except FileNotFoundError:
                        continue
                    except OSError:
                        # Not to be looked at, as a link to itself; to read it will say why.
                        yield entry.name, 0, 0, 0
                        continue
                    # The only one of its times that no program can set back.
                    yield entry.name, found.st_ctime_ns, found.st_ino, found.st_size
    except FileNotFoundError:
        return


def _read(directory: Path, signature: _Signature) -> dict[str, Allowed]:
    allowed: dict[str, Allowed] = {}
    for file_name, number, *_ in signature:
        if not file_name:
            log.warning("allow-list ignored=%d files beyond the first %d", number, ALLOWED_MAX)
            continue
        path = directory / file_name
        try:
            public, found = _read_entry(path)
        except ConfigError as error:
            log.warning("allow-list ignored=%s error=%s", path, error)
            continue
        if public in allowed:
            log.warning("allow-list ignored=%s same_key_as=%s", path, allowed[public].name)
            continue
        allowed[public] = found
    return allowed


def _read_entry(path: Path) -> tuple[str, Allowed]:
    """One file of the list.  Raises ConfigError."""
    try:
        table = parse_key_file(read_key_file(path, refuse_changeable), path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    try:
        role = Role(table.get("role", Role.CLIENT))
    except ValueError as error:
        raise ConfigError(f"{path}: role is not one of {', '.join(Role)}") from error
    return key_in(table, "public", path), Allowed(path.name.removesuffix(PUBLIC_SUFFIX), role)


def _names(allowed: Mapping[str, Allowed]) -> set[str]:
    return {each.name for each in allowed.values()}
