"""What a data directory says, without beginning a life on it and without changing anything.

A process may hold the directory meanwhile.  ``identity`` and ``configuration`` are replaced whole,
so that what is read of them is true; a log that is being written to is not read.  Pages of the
image are not checked: the next start does that.
"""

import msgspec

from sinfonia.errors import DamagedData, StorageError
from sinfonia.protocol.membership.rebuilding import MemberReport
from sinfonia.storage.damage import refuse_damage
from sinfonia.storage.data_directory import DataDirectory
from sinfonia.storage.disk_image import read_checkpoint
from sinfonia.storage.files import Files
from sinfonia.storage.known_configuration import KnownConfiguration
from sinfonia.storage.redo_log import find_end
from sinfonia.storage.stable_storage import INCOMPLETE_FILE

# Of such modes nothing is on the disk but whose directory it is, and the configuration.
_IN_MEMORY_PREFIX = "RAM"


def survey(files: Files, *, place: str, running: bool) -> MemberReport:
    """Read the data directory ``files``; ``running``: a process holds it.

    Raises StorageError if it is none, or another version's.
    """
    owner = DataDirectory.read(files)
    if owner is None:
        raise StorageError(f"{place} is not the data directory of a memory node")
    known = KnownConfiguration.read(files)
    report = MemberReport(
        owner.node,
        owner.identity,
        owner.mode,
        owner.capacity,
        owner.starts,
        place,
        running,
        cluster=known.cluster,
        version=known.version,
        epoch=known.epoch,
        entry=known.entry,
        configuration_damaged=known.damaged,
    )
    # Damage that shows while a process writes may be no more than that.
    if owner.mode.startswith(_IN_MEMORY_PREFIX):
        return msgspec.structs.replace(report, empty=not running)
    if running:
        return report
    try:
        return _with_log(files, report)
    except DamagedData as error:
        return msgspec.structs.replace(report, damage=str(error))


def _with_log(files: Files, report: MemberReport) -> MemberReport:
    """``report`` and where the log ends.  Raises DamagedData."""
    if files.exists(INCOMPLETE_FILE):
        return msgspec.structs.replace(report, empty=True)
    refuse_damage(files)
    checkpoint = read_checkpoint(files, identity=report.identity, capacity=report.capacity)
    if checkpoint is None:
        return msgspec.structs.replace(report, empty=True)
    last, lives = find_end(
        files,
        identity=report.identity,
        processed=checkpoint.processed,
        seq=checkpoint.seq,
        history=checkpoint.history,
    )
    lived = max((each.incarnation for each in lives if each.first <= last), default=0)
    return msgspec.structs.replace(
        report,
        lived=lived,
        last=last,
        epoch=max(report.epoch, checkpoint.state.epoch),
    )
