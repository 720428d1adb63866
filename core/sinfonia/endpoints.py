"""An endpoint is ``tcp://host:port``; users may leave out all but the host."""

from sinfonia.errors import ConfigError

DEFAULT_PORT = 7000


def normalise_endpoint(endpoint: str) -> str:
    """``host``, ``host:port`` or ``tcp://host:port`` as the latter.  Raises ConfigError."""
    rest = endpoint.removeprefix("tcp://")
    host, colon, port = rest.rpartition(":")
    if not colon:
        host, port = rest, str(DEFAULT_PORT)
    if not host or "/" in host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"{endpoint!r} is not an endpoint; it looks like tcp://host:port")
    return f"tcp://{host}:{port}"


def endpoints_of(text: str) -> list[str]:
    """The endpoints in a list with commas, each once.  Raises ConfigError."""
    return list(dict.fromkeys(normalise_endpoint(each.strip()) for each in text.split(",")))


def host_of(endpoint: str) -> str:
    """The host of a complete endpoint."""
    return endpoint.removeprefix("tcp://").rpartition(":")[0]
