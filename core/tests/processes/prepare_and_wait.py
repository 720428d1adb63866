"""An application node that gets votes and never says COMMIT; its test kills it.

``python prepare_and_wait.py ENDPOINT NODE... [also OTHER...]`` prepares a minitransaction over
memory nodes 0 and 1 that writes "new" to both, but sends EXEC&PREPARE to the NODEs only; prints a
line when they have voted, and waits.  OTHER: further participants, which need not exist.
"""

import secrets
import signal
import sys
import time

import zmq

from sinfonia.addresses import MemoryNodeId
from sinfonia.client.seed import ask_for_directory
from sinfonia.minitransaction import WriteItem
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.messages import PROTOCOL_VERSION, ExecPrepare, Requests, Vote, Voted
from sinfonia.transport.codec import decode_replies, encode_requests
from sinfonia.transport.zeromq import connect_dealer, try_send


def main() -> None:
    directory = ask_for_directory(sys.argv[1])
    client = secrets.randbits(64)
    told, _, named = " ".join(sys.argv[2:]).partition("also")
    participants = [MemoryNodeId(node) for node in (0, 1, *map(int, named.split()))]
    tid = Tid(directory.epoch, client, 1)
    prepare = ExecPrepare(tid=tid, participants=participants, writes=[WriteItem(0, b"new")])
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    for node in map(int, told.split()):
        entry = next(entry for entry in directory.nodes if entry.node == node)
        socket = connect_dealer(context, entry.endpoint)
        batch = Requests(PROTOCOL_VERSION, client, entry.incarnation, 1, [prepare])
        while not try_send(socket, encode_requests(batch)):
            time.sleep(0.01)  # the connection is coming up
        [reply] = decode_replies(socket.recv_multipart()).replies
        assert isinstance(reply, Voted)
        assert reply.vote is Vote.OK
    print("voted", flush=True)  # noqa: T201 - the test waits for it
    signal.pause()


if __name__ == "__main__":
    main()
