"""A real etcd on loopback, of one or three members, for one test.

Everything that is started ends with the ``with`` block, and its files are gone.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sinfonia.testing.etcd_server import Etcd

__all__ = ["Etcd", "running_etcd"]


@contextmanager
def running_etcd(members: int = 1) -> Iterator[Etcd]:
    """An etcd that answers."""
    directory = Path(tempfile.mkdtemp(prefix="sinfonia-etcd-"))
    etcd = Etcd(directory, members)
    try:
        etcd.start()
        yield etcd
    finally:
        etcd.kill()
        shutil.rmtree(directory)
