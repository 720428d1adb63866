"""A secret key proves a name, so it is read from a file that no other user can read.

A *key directory* holds what the processes of one cluster need::

    cluster.key     the secret of every socket that listens: members and managers have it
    cluster.pub     its public half
    clients/        the allow-list, a file NAME.pub for each key that may connect (allow_list.py)
    NAME.key        the pair with which NAME connects, and the cluster's public key

All are TOML; keys are in Z85, 40 characters.  A client needs its own ``NAME.key`` and nothing else.
A secret file that other users can read, or that belongs to another user, is refused.
"""

import os
import re
import stat
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
import zmq.error

from sinfonia.errors import ConfigError

CLUSTER = "cluster"
CLIENTS = "clients"

# The pairs that every key directory has: for commands, and for processes without one of their own.
OPERATOR = "operator"
NODE = "node"

SECRET_SUFFIX = ".key"  # noqa: S105 - of a file, and no password
PUBLIC_SUFFIX = ".pub"

# A key file has four lines; what is longer is something else.
KEY_FILE_BYTES_MAX = 4096

# A name is that of a file and stands in logs.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)

_Z85 = re.compile(r"[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40}")


@dataclass(frozen=True, slots=True)
class Keys:
    """With what one process connects: its own pair, and the cluster's public key (all Z85).

    ``source`` is the file that it was read from.
    """

    name: str
    public: str
    secret: str = field(repr=False)
    cluster: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Security:
    """With what one process listens, and connects: ``secret`` is the cluster's.

    ``clients`` is the directory of the allow-list.
    """

    keys: Keys
    secret: str = field(repr=False)
    clients: Path

    @property
    def public(self) -> str:
        """The cluster's public key."""
        return self.keys.cluster


def load_keys(path: Path | str) -> Keys:
    """The keys in ``path``, a file ``NAME.key``; of a key directory, those of its operator.

    Raises ConfigError: it is no such file, or others can read it.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = key_file(path, OPERATOR)
    table = read_secret(path)
    return Keys(
        _text(table, "name", path),
        key_in(table, "public", path),
        key_in(table, "secret", path),
        key_in(table, "cluster", path),
        str(path),
    )


def as_keys(keys: Keys | Path | str | None) -> Keys | None:
    """``keys``, read from its file if that is what it is.  Raises ConfigError."""
    return load_keys(keys) if isinstance(keys, Path | str) else keys


def load_security(directory: Path | str, name: str = NODE) -> Security:
    """With what the process ``name`` of a cluster listens and connects; see the module.

    It connects with ``NAME.key``, or with ``node.key`` if it has none.  Raises ConfigError.
    """
    directory = Path(directory).expanduser().resolve()
    own = key_file(directory, name)
    keys = load_keys(own if own.exists() else key_file(directory, NODE))
    secret_file = key_file(directory, CLUSTER)
    table = read_secret(secret_file)
    public, secret = (key_in(table, key, secret_file) for key in ("public", "secret"))
    if keys.cluster != public:
        raise ConfigError(
            f"{keys.source} is for another cluster than {secret_file}: their public keys differ; "
            f"make another pair with `sinfonia keygen {directory} --client NAME --role node`"
        )
    clients = directory / CLIENTS
    try:
        refuse_changeable(clients, clients.stat())
    except OSError as error:
        raise ConfigError(f"cannot use the allow-list {clients}: {error.strerror}") from error
    return Security(keys, secret, clients)


def key_file(directory: Path, name: str) -> Path:
    """Where ``name`` has its secret key."""
    return directory / f"{name}{SECRET_SUFFIX}"


def read_secret(path: Path) -> dict[str, Any]:
    """What is in a secret file, if it is one.  Raises ConfigError."""
    try:
        text = read_key_file(path, _refuse_shared)
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no key file {path}; `sinfonia keygen {path.parent}` makes a cluster's keys, "
            f"and with --client NAME those of one more client"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read the key file {path}: {error.strerror}") from error
    return parse_key_file(text, path)


def read_key_file(path: Path, check: Callable[[Path, os.stat_result], None]) -> bytes:
    """What is in ``path``, if ``check`` raises nothing; a byte more than may be, if it is too long.

    What is checked is what is read, and nothing is waited for.  Raises OSError or ConfigError.
    """
    # Not to block: it may be a pipe by mistake, and a loop that serves a cluster waits for no file.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path} is not a key file: it is no file")
        check(path, found)
        return stream.read(KEY_FILE_BYTES_MAX + 1)


def parse_key_file(text: bytes, path: Path) -> dict[str, Any]:
    """The table in a key file.  Raises ConfigError."""
    try:
        if len(text) > KEY_FILE_BYTES_MAX:
            raise ConfigError(f"{path} is too long for a key file")
        return tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not a key file: {error}") from error


def key_in(table: dict[str, Any], name: str, path: Path) -> str:
    """The key that ``name`` stands for.  Raises ConfigError."""
    text = _text(table, name, path)
    if _Z85.fullmatch(text) is None or not _decodes(text):
        raise ConfigError(f"{path}: {name} is not a key; a key has 40 characters of Z85")
    return text


def refuse_changeable(path: Path, found: os.stat_result) -> None:
    """Raise ConfigError if others could add themselves there."""
    if found.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"the allow-list {path} belongs to another user (uid {found.st_uid}), which could add "
            f"any key; run `chown root {path}`"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"the allow-list {path} can be changed by others; run `chmod go-w {path}`"
        )


def _refuse_shared(path: Path, found: os.stat_result) -> None:
    if found.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"the secret in {path} belongs to another user (uid {found.st_uid}); copy it to a file "
            "of your own and run `chmod 600` on that"
        )
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"the secret in {path} can be read by others (mode {found.st_mode & 0o777:03o}); run "
            f"`chmod 600 {path}`"
        )


def _text(table: dict[str, Any], name: str, path: Path) -> str:
    value = table.get(name)
    if not isinstance(value, str):
        raise ConfigError(f"{path} is not a key file: it has no {name}")
    return value


def _decodes(text: str) -> bool:
    """Whether ``text``, of the right length and alphabet, stands for 32 bytes."""
    try:
        zmq.curve_public(text.encode("ascii"))
    except (zmq.error.ZMQError, ValueError):
        return False
    return True
