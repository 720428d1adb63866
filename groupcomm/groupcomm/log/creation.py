"""A log is made once, in memory that is zero, and found again by its address alone."""

from groupcomm.errors import NotALog
from groupcomm.log.layout import LOG_HEADER_BYTES, RECORD_BYTES, Log, Shape
from sinfonia.client.steps import Steps, execute, minitransaction
from sinfonia.rings import RingHeader
from sinfonia.structures import execute_until_known


def create_log(log: Log) -> Steps[None]:
    """Make ``log`` where all bytes are zero; if it is there already, do nothing.

    One minitransaction.  Raises NotALog if something else is there; OutcomeUnknown: repeat it.
    """
    shape = log.shape
    header = shape.encode()
    ring = RingHeader(shape.slot_bytes, shape.slots).encode()
    t = minitransaction()
    t.compare(log.node, log.address, bytes(LOG_HEADER_BYTES + len(ring)))
    t.compare(log.node, log.records_address, bytes(shape.writers * RECORD_BYTES))
    t.write(log.node, log.address, header)
    t.write(log.node, log.ring.address, ring)
    result = yield from execute_until_known(t)
    if result.committed:
        return
    found = yield from open_log(log.node, log.address)
    if found != log:
        raise NotALog(f"another log is there, of {found.shape}")


def open_log(node: int, address: int) -> Steps[Log]:
    """The log at ``address`` of ``node``.  One minitransaction.  Raises NotALog."""
    t = minitransaction()
    t.read(node, address, LOG_HEADER_BYTES)
    try:
        shape = Shape.decode((yield from execute(t)).reads[0])
    except NotALog as error:
        raise NotALog(f"at {address} of memory node {node} {error}") from error
    return Log(node, address, shape)
