"""`sinfonia ring`: makes what `exec --append` appends to."""

import json

import click

from sinfonia.addresses import MemoryNodeId
from sinfonia.cli.arguments import (
    Place,
    cluster_argument,
    json_option,
    parse_place,
    parse_size_option,
)
from sinfonia.cli.minitransaction_commands import connected, timeout_option
from sinfonia.config import count_of
from sinfonia.rings import SLOT_HEADER_BYTES
from sinfonia.structures import Ring
from sinfonia.structures.ring.ring import SLOTS_MAX


@click.group(short_help="Make rings, for exec --append.")
def ring() -> None:
    """Make rings: logs of records that memory nodes append to by themselves."""


@ring.command("create", short_help="Make an empty ring.")
@cluster_argument
@click.argument("place", metavar="NODE:OFFSET", type=parse_place)
@click.option(
    "--slots",
    type=click.IntRange(1, SLOTS_MAX),
    required=True,
    help="Number of records that the ring holds.",
)
@click.option(
    "--slot-bytes",
    type=parse_size_option,
    metavar="SIZE",
    required=True,
    help=f"Size of each record, with {SLOT_HEADER_BYTES} bytes that the ring needs.",
)
@timeout_option
@json_option
def create(
    cluster: str, place: Place, *, slots: int, slot_bytes: int, timeout: float, as_json: bool
) -> None:
    """Make an empty ring at NODE:OFFSET of CLUSTER, where memory must be zero.

    If the same ring is there already, nothing is changed.  A ring never overwrites a record that
    was not trimmed: when all slots are taken, it is full.

    \b
        sinfonia ring create demo 0:1MiB --slots 1000 --slot-bytes 256
        sinfonia exec demo --append 0:1MiB=text:first
    """
    made = Ring(place.node, place.address, slots, slot_bytes)
    with connected(cluster, timeout) as connection:
        node = connection.nodes.get(MemoryNodeId(place.node))
        if node is not None:  # else the ring's minitransaction says so
            _refuse_too_large(made, node.capacity)
        connection.run(made.create(), timeout=timeout)
    if as_json:
        facts = {
            "node": place.node,
            "address": place.address,
            "slots": slots,
            "slot_bytes": slot_bytes,
            "payload_bytes_max": made.payload_bytes_max,
            "bytes": made.byte_count,
        }
        click.echo(json.dumps(facts))
        return
    click.echo(
        f"A ring of {count_of(slots, 'record')} of up to {count_of(made.payload_bytes_max, 'byte')}"
        f" is at {place.node}:{place.address}; it ends before "
        f"{place.node}:{place.address + made.byte_count}."
    )


def _refuse_too_large(made: Ring, capacity: int) -> None:
    """Raises click.ClickException if the ring ends beyond the memory node."""
    end = made.address + made.byte_count
    if end > capacity:
        raise click.ClickException(
            f"the ring would end at {end}, and memory node {made.node} at {capacity}; "
            "nothing was changed: choose fewer slots, or another place"
        )
