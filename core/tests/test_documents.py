"""What the documents say of the code is so: names of modules and messages, links, and limits."""

import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from sinfonia import minitransaction, rings, status_snapshot
from sinfonia.backup.restore import LIVES_SKIPPED
from sinfonia.client import watch
from sinfonia.config import Times
from sinfonia.memnode import in_flight
from sinfonia.metrics import exposition
from sinfonia.protocol import conversation, lock_waits, messages, sessions, watches, watching
from sinfonia.protocol.load import counters as load_counters
from sinfonia.protocol.membership import rebuilding
from sinfonia.protocol.replication import pacing, slowness
from sinfonia.protocol.replication.agreement import ReplicationTimes
from sinfonia.protocol.replication.limits import ReplicationLimits
from sinfonia.storage.journal import KEEP_FOR_COPIES_FACTOR
from sinfonia.storage.redo_log import SEGMENT_BYTES
from sinfonia.structures import lease, lease_layout
from sinfonia.structures.hash_map import layout as hash_map_layout
from sinfonia.structures.hash_map import scan as hash_map_scan
from sinfonia.transport import admission, authentication, codec, zeromq

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("core/bench/*.md")]
    if "`" in path.read_text("utf-8")
)
ROOMS = ("core", "sinfoniafs", "groupcomm", "chaos", "ansible", "dashboards")
SOURCES = [
    path.relative_to(ROOT).as_posix() for room in ROOMS for path in (ROOT / room).rglob("*.py")
]

MIB = 1 << 20

# What a document says, as the constants that it speaks of would have it.
LIMITS = {
    "core/README.md": (
        f"longer than `ack_within` ({Times().ack_within * 1e3:g} ms)",
        f"by at most {pacing.PACE_MAX:g} s a write",
        f"{minitransaction.ITEMS_MAX} items and {minitransaction.BYTES_MAX // MIB} MiB",
        f"{minitransaction.UPDATES_MAX} adds and appends",
        f"{zeromq.UNREAD_QUEUE_MAX} messages may wait unread",
        f"{in_flight.IN_FLIGHT_MAX // 1024} Ki requests or "
        f"{in_flight.IN_FLIGHT_BYTES_MAX // MIB} MiB of answers",
        f"dropped beyond {admission.UNREAD_BYTES_MAX // MIB} MiB",
        f"A frame has at most {codec.FRAME_BYTES_MAX // MIB} MiB",
        f"{load_counters.TAGS_MAX} tags are told apart",
        f"counted as `{load_counters.OTHER}`",
        f"at most `in_doubt_timeout` ({Times().in_doubt_timeout:g} s)",
        f"for up to {minitransaction.LOCK_WAIT_MAX * 1e3:g} ms",
        f"cut off after {exposition.REQUEST_SECONDS_MAX:g} s",
        "beyond the eighth" if exposition.CONNECTIONS_MAX == 8 else "beyond another",
        "about once a second" if status_snapshot.PUBLISH_EVERY == 1 else "not so often",
    ),
    "core/PROTOCOL.md": (
        f"{watches.WATCHES_PER_CLIENT_MAX:,} watches a client, {watches.WATCHES_MAX:,} a memory "
        f"node, {watches.WATCHES_PER_REQUEST_MAX:,} a request, "
        f"{watches.HINTS_AT_ONCE_MAX} hints at a time",
        f"a watch ends {watches.WATCH_LEASE:g} s after",
        f"every {watching.WATCH_RENEW:g} s; after {watching.ASK_AGAIN:g} s",
        f"returns after {watch.POLL_EVERY:g} s without news",
        f"`lock_wait_ms` (at most {minitransaction.LOCK_WAIT_MAX * 1e3:g})",
        f"at most {lock_waits.LockLimits().waiters} at a time",
        f"is {rings.HEADER_BYTES} bytes of header",
        f"payloads of {codec.DETACH_BYTES_MIN // 1024} KiB and more",
        f"`slot_bytes`, more than {rings.SLOT_HEADER_BYTES}",
        f"the key has {authentication.CLIENTS_PER_KEY_MAX // 1024} Ki of them",
        f"unanswered after `RESEND_AFTER` ({conversation.RESEND_AFTER:g} s)",
        f"Segments are {SEGMENT_BYTES // MIB} MiB",
        f"It is at most {ReplicationLimits().credit // MIB} MiB",
        f"or for {pacing.PACE_MAX:g} s (`PACE_MAX`)",
        f"silent for {pacing.PACE_SILENT_MAX:g} s, or during",
        f"no more than {KEEP_FOR_COPIES_FACTOR} times `keep_log`",
        f"asked nothing for {pacing.COPIER_SILENT_MAX:g} s",
        f"`ack_within` ({Times().ack_within * 1e3:g} ms)",
        f"twice `drop_after` ({ReplicationTimes().slow_for:g} s)",
        f"{ReplicationTimes().slow_for / slowness.PARDON:g} s the first time",
        f"up to {slowness.TIME_OUT_MAX:g} s",
        f"incarnation are raised by 2^{rebuilding.MARGIN.bit_length() - 1}, "
        f"the epoch by {rebuilding.EPOCHS_SKIPPED}",
        f"version and config epochs are {LIVES_SKIPPED:,} later",
        "two or more epochs behind" if sessions.EPOCHS_STALE == 2 else "more epochs behind",
    ),
    "core/STRUCTURES.md": (
        f"A map is a header of {hash_map_layout.MAP_HEADER_BYTES} bytes",
        f"| {hash_map_layout.CHILDREN_OFFSET} | {hash_map_layout.DEPTH_MAX} × 8 | children",
        f"| {hash_map_layout.ENTRIES_OFFSET} | | entries",
        f"for up to {hash_map_scan.PAGE_BUCKETS} buckets",
        f"or {hash_map_scan.HEADS_TOGETHER} buckets",
        f"up to {minitransaction.UPDATES_MAX} records side by side",
        "every tenth of a second" if lease.POLL_S == 0.1 else "from time to time",
        "`duration` and a tenth" if lease_layout.DRIFT_MARGIN == 0.1 else "`duration` and more",
    ),
}


def _name(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def missing_paths(text: str, folder: Path) -> list[str]:
    """Python files, paths in rooms and targets of links that ``text`` names and that do not exist.

    A path may be as seen from ``folder`` or from the root; of a Python file its end is enough.
    """
    in_code = " ".join(re.findall(r"`([^`\n]+)`", text))
    named = {
        *re.findall(r"(?<![\w./-])((?:[\w.-]+/)*\w+\.py)\b", text),
        *re.findall(rf"(?<![\w./-])((?:{'|'.join(ROOMS)})/[\w./-]*\w)", in_code),
        *re.findall(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)", text),
    }
    return sorted(
        name
        for name in named
        if not (ROOT / name).exists()
        and not (folder / name).exists()
        and not any(f"/{source}".endswith(f"/{name}") for source in SOURCES)
    )


def missing_names(text: str) -> list[str]:
    """Dotted names, of modules and of what is in them, in ``text`` that do not exist."""
    named = set(re.findall(r"(?<![\w./@-])((?:sinfonia|sinfoniafs)(?:\.[A-Za-z_]\w*)+)", text))
    return sorted(name for name in named if not _is_there(name))


def _is_there(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_path_that_a_document_names_is_there(document: Path) -> None:
    assert missing_paths(document.read_text("utf-8"), document.parent) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_dotted_name_that_a_document_names_is_there(document: Path) -> None:
    assert missing_names(document.read_text("utf-8")) == []


def test_the_map_has_every_folder_of_the_core() -> None:
    package = ROOT / "core" / "sinfonia"
    folders = [path.parent for path in package.rglob("__init__.py") if path.parent != package]
    map_of_core = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    missing = [
        folder.relative_to(package).as_posix()
        for folder in folders
        if f"`{folder.relative_to(package).as_posix()}/`" not in map_of_core
        and f"`{folder.name}/`" not in map_of_core
    ]
    assert missing == []


def test_a_reference_that_leads_nowhere_is_found() -> None:
    text = (
        "`.venv/bin/pytest core/tests/test_participant.py -k x`, `locks.py`, `core/bench`, "
        "[the map](ARCHITECTURE.md), [lost](core/LOST.md), `sinfonia.testing.model.ModelCluster`, "
        "`sinfonia.no_such_module`, `sinfonia.protocol.effects.Finished`, `sinfonia.connect`"
    )
    assert missing_paths(text, ROOT) == ["core/LOST.md", "core/tests/test_participant.py"]
    assert missing_names(text) == ["sinfonia.no_such_module", "sinfonia.protocol.effects.Finished"]


def test_links_to_sections_lead_to_one() -> None:
    dead = [
        f"{document.relative_to(ROOT)}: {file}#{section}"
        for document in DOCUMENTS
        for file, section in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", document.read_text("utf-8"))
        if "://" not in file and section not in set(_sections(document, file))
    ]
    assert dead == []


def test_the_protocol_lists_every_message() -> None:
    text = (ROOT / "core" / "PROTOCOL.md").read_text("utf-8")
    kinds = {each.__name__ for each in get_args(messages.Request) + get_args(messages.Reply)}
    assert {kind for kind in kinds if not re.search(rf"`{kind}\b", text)} == set()


@pytest.mark.parametrize(
    ("document", "said"), [(name, said) for name in LIMITS for said in LIMITS[name]]
)
def test_a_limit_in_a_document_is_that_of_the_code(document: str, said: str) -> None:
    text = " ".join((ROOT / document).read_text("utf-8").split())
    assert said in text


def _sections(document: Path, file: str) -> Iterator[str]:
    """The names of the sections of what ``document`` links to as ``file``, as in links."""
    target = document.parent / file if file else document
    for title in re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
