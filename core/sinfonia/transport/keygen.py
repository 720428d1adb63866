"""Keys are made once and never overwritten unless that is asked for: a lost key locks out.

See keys.py for what a key directory holds.  A secret file has the mode 0600 from its first moment.
"""

import os
from pathlib import Path

import zmq

from sinfonia.errors import ConfigError
from sinfonia.toml_checks import quoted
from sinfonia.transport.keys import (
    CLIENTS,
    CLUSTER,
    NAME,
    NODE,
    OPERATOR,
    PUBLIC_SUFFIX,
    key_file,
    key_in,
    read_secret,
)
from sinfonia.transport.permissions import Role

_SECRET_MODE = 0o600
_PUBLIC_MODE = 0o644
_DIRECTORY_MODE = 0o755


def make_cluster_keys(directory: Path, *, cluster: str, force: bool = False) -> list[Path]:
    """Make a key directory: the cluster's pair, and those of its operator and its processes.

    Returns the secret files.  Raises ConfigError if there are keys already and not ``force``, with
    which every client needs a new key, too.
    """
    secret_file = key_file(directory, CLUSTER)
    if secret_file.exists() and not force:
        raise ConfigError(
            f"{secret_file} exists; every client of the cluster relies on it. Add a client with "
            "--client NAME, or replace all keys with --force"
        )
    try:
        directory.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        (directory / CLIENTS).mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
        (directory / CLIENTS).chmod(_DIRECTORY_MODE)
    except OSError as error:
        raise ConfigError(f"cannot make {directory}: {error.strerror}") from error
    public, secret = _new_pair()
    write_secret(secret_file, {"name": cluster, "public": public, "secret": secret})
    _write(directory / f"{CLUSTER}{PUBLIC_SUFFIX}", {"name": cluster, "public": public})
    return [
        secret_file,
        add_client(directory, OPERATOR, role=Role.OPERATOR, force=force),
        add_client(directory, NODE, role=Role.NODE, force=force),
    ]


def add_client(directory: Path, name: str, *, role: Role, force: bool = False) -> Path:
    """Make a pair for ``name`` and put it on the allow-list; returns the secret file.

    Raises ConfigError: there is no key directory, or ``name`` has a key and not ``force``.
    """
    if NAME.fullmatch(name) is None or name == CLUSTER:
        raise ConfigError(
            f"{name!r} cannot be the name of a client: letters, digits, . _ and -, at most 64, and "
            f"not {CLUSTER!r}"
        )
    cluster_file = key_file(directory, CLUSTER)
    cluster = key_in(read_secret(cluster_file), "public", cluster_file)
    secret_file = key_file(directory, name)
    entry = directory / CLIENTS / f"{name}{PUBLIC_SUFFIX}"
    for existing in (secret_file, entry):
        if existing.exists() and not force:
            raise ConfigError(f"{existing} exists; choose another name, or replace it with --force")
    public, secret = _new_pair()
    write_secret(
        secret_file, {"name": name, "public": public, "secret": secret, "cluster": cluster}
    )
    # The list comes last: a key that is on it must be whole.
    _write(entry, {"role": role.value, "public": public})
    return secret_file


def ensure_member_keys(directory: Path, name: str) -> None:
    """See to it that the process ``name`` of the cluster has a pair of its own.

    Raises ConfigError.
    """
    if not key_file(directory, name).exists():
        add_client(directory, name, role=Role.NODE)


def write_secret(path: Path, table: dict[str, str]) -> None:
    """Put ``table`` into a file that only its owner can read.  Raises ConfigError."""
    _write(path, table, mode=_SECRET_MODE)


def _write(path: Path, table: dict[str, str], *, mode: int = _PUBLIC_MODE) -> None:
    """Write the file whole, and synced: a reader finds the one before, or this."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    text = "".join(f"{key} = {quoted(value)}\n" for key, value in table.items())
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                os.fchmod(stream.fileno(), mode)  # whatever the umask says
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _new_pair() -> tuple[str, str]:
    public, secret = zmq.curve_keypair()
    return public.decode("ascii"), secret.decode("ascii")
