"""The yardstick of the benchmark: a bare ZeroMQ echo, so that only the network is measured.

``python -m sinfonia.operating.measuring.echo ENDPOINT REPLY_BYTES`` answers every message with
REPLY_BYTES zeros.
"""

import sys

import zmq


def serve(endpoint: str, reply_bytes: int) -> None:
    """Answer until killed."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.bind(endpoint)
    reply = bytes(reply_bytes)
    while True:
        frames = router.recv_multipart()
        router.send_multipart([frames[0], reply])


class EchoClient:
    """Round trips to an echo, one at a time."""

    def __init__(self, endpoint: str, request_bytes: int) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.set(zmq.LINGER, 0)
        self._dealer.connect(endpoint)
        self._request = bytes(request_bytes)

    def round_trip(self) -> None:
        """Send, and wait for the answer."""
        self._dealer.send(self._request)
        self._dealer.recv()

    def close(self) -> None:
        self._dealer.close(0)
        self._context.term()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
