"""Which keys go with a cluster that a user named.

What was asked for by name comes first; then what the cluster's own description says, which may be
that there are none; and for a cluster known by its endpoints alone, what the environment says.
"""

import os
from pathlib import Path

from sinfonia.config import ClusterConfig, described_at
from sinfonia.transport.keys import Keys, Security, load_keys, load_security

KEYS_VARIABLE = "SINFONIA_KEYS"


def resolve_keys(cluster: str, chosen: Path | str | None = None) -> Keys | None:
    """The keys for ``cluster``, named as ``resolve_endpoint`` takes it; None: it has none.

    ``chosen`` is a key file, or a key directory, whose operator's key is meant.
    Raises ConfigError.
    """
    if chosen:
        return load_keys(chosen)
    path = described_at(cluster)
    if path is not None:
        return operator_keys(ClusterConfig.load(path))
    named = os.environ.get(KEYS_VARIABLE)
    return load_keys(named) if named else None


def operator_keys(config: ClusterConfig) -> Keys | None:
    """The keys with which this machine's operator connects; None: the cluster has none.

    Raises ConfigError.
    """
    directory = config.security.keys
    return load_keys(directory) if directory else None


def process_security(config: ClusterConfig, name: str) -> Security | None:
    """With what the process ``name`` listens; None: without keys.  Raises ConfigError."""
    directory = config.security.keys
    return load_security(directory, name) if directory else None
