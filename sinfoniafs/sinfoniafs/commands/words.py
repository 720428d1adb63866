"""What `info` and `mkfs` show to a person; a script takes the same facts as JSON."""

from collections.abc import Iterator, Mapping
from typing import Any

_UNITS = ("TiB", "GiB", "MiB", "KiB")

_KINDS = {
    "-": "regular file",
    "d": "directory",
    "l": "symbolic link",
    "c": "character device",
    "b": "block device",
    "p": "named pipe",
    "s": "socket",
}


def human_size(count: int) -> str:
    """A number of bytes as people say it: 5 bytes, 4 KiB, 2.9 GiB."""
    for power, unit in zip(range(len(_UNITS), 0, -1), _UNITS, strict=True):
        size = 1 << 10 * power
        if count >= size:
            return f"{count / size:.1f}".removesuffix(".0") + f" {unit}"
    return count_of(count, "byte")


def count_of(number: int, what: str) -> str:
    """A number of things: 1 link, 1,200 links."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def volume_words(facts: Mapping[str, Any]) -> Iterator[str]:
    """What ``volume_facts`` found, a line each."""
    block = facts["block_size"]
    space, free = facts["blocks"] * block, facts["blocks_free"] * block
    yield f"Volume {facts['volume']!r} on {count_of(facts['memory_nodes'], 'memory node')}"
    yield f"  made      {facts['created']}, uuid {facts['uuid']}"
    yield (
        f"  space     {human_size(space)}, {human_size(free)} free ({_used(space, free)} used), in "
        f"blocks of {human_size(block)}"
    )
    inodes, left = facts["inodes"], facts["inodes_free"]
    yield f"  inodes    {inodes:,}, {left:,} free ({_used(inodes, left)} used)"
    sessions = facts["sessions"]
    yield f"  mounted   {sessions[0] if sessions else 'nowhere'}"
    for session in sessions[1:]:
        yield f"            {session}"


def path_words(facts: Mapping[str, Any]) -> Iterator[str]:
    """What ``path_facts`` found, a line each."""
    mode = facts["type"]
    yield (
        f"{facts['path']}: {_KINDS.get(mode[0], 'file')} ({mode}), {human_size(facts['size'])}, "
        f"{count_of(facts['links'], 'link')}"
    )
    yield f"  space     {human_size(facts['allocated'])} allocated"
    yield (
        f"  inode     {facts['inode']}: index {facts['inode_index']} of memory node "
        f"{facts['memory_node']}"
    )
    yield f"  mounted   {facts['cluster']} at {facts['mountpoint']}"


def _used(total: int, free: int) -> str:
    return f"{100 * (total - free) / total:.0f} %" if total else "0 %"
