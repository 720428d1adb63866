"""A port that another process holds is refused before anything is started, with the holder's name.

A directory of `sinfonia up` and a cluster that runs at its ports may have nothing in common: then
all commands on the directory would act on the other cluster.
"""

from collections.abc import Iterable

from sinfonia.operating.local_description import refuse_taken
from sinfonia.operating.observer import Observer
from sinfonia.operating.refusals import StartFailed
from sinfonia.transport.keys import Keys


def refuse_rivals(endpoints: Iterable[str], cluster: str, keys: Keys | None) -> None:
    """Raise StartFailed if one of ``endpoints``, where ``cluster`` is to be, is taken.

    If a cluster answers there, the message names it; ``keys`` are those to ask it with.
    """
    for endpoint in endpoints:
        try:
            refuse_taken(endpoint)
        except StartFailed:
            holder = cluster_at(endpoint, keys)
            if holder is None:
                raise
            raise StartFailed(_taken_by(endpoint, holder, cluster)) from None


def cluster_at(endpoint: str, keys: Keys | None) -> str | None:
    """The name of the cluster that answers at ``endpoint``; None: none does."""
    with Observer([endpoint], keys, follow=False) as observer:
        directory = observer.look().directory
    return None if directory is None else directory.cluster


def _taken_by(endpoint: str, holder: str, cluster: str) -> str:
    if holder == cluster:
        return (
            f"{endpoint} is in use by a cluster that is called {holder!r}, too, and was not "
            "started from this directory; stop it where it was started, with `sinfonia down`"
        )
    return (
        f"{endpoint} is in use by cluster {holder!r}, not by {cluster!r}; stop that one with "
        "`sinfonia down`, or choose other ports: for a new cluster with --port, else in "
        "cluster.toml"
    )
