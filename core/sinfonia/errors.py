"""Every error says whether the minitransaction is known not to have happened.

::

    SinfoniaError
    |-- InvalidMinitransaction    definite: refused before anything was sent
    |   |-- LimitExceeded             too many items or bytes
    |   `-- OutOfRange                an address beyond a memory node's capacity, or an unknown node
    |-- NotExecuted               definite: sent perhaps, but it did not happen and never will
    |   |-- Contended                 its locks were busy until the deadline
    |   |-- TimedOut                  no answer before the deadline, but nothing was to be written
    |   |-- Overloaded                a limit of a memory node was reached until the deadline
    |   `-- Refused                   a memory node will not do it; of a watch: it has too many
    |-- OutcomeUnknown            unknown: it may have happened; ``tid`` can be asked about
    |-- Unreachable               definite: no answer from any process asked, at connect or later
    |-- ConfigError               a configuration file or option is wrong; says which and how
    |-- StorageError              a data directory cannot be used; says why and what to do
    |   |-- DamagedData               what was synced is not there any more, or not as it was
    |   |   `-- CorruptLog                the redo log, or a part of it
    |   |-- SyncFailed                the disk would not keep what was written; the node must stop
    |   `-- DataDirectoryInUse        another process holds the data directory
    |-- BackupError               a backup cannot be taken, or not be used; says why and what to do
    |   `-- DamagedBackup             a file of it is not what was written; names it
    `-- ProtocolError             the peer sent something that is not the protocol

An outcome that was to be expected is a value, not an error: failed compares are in
``Result.failed_compares``.
"""

from typing import Any, ClassVar


class SinfoniaError(Exception):
    """Base of all errors raised by this package.

    ``definite`` is True when the minitransaction is known not to have happened.
    """

    definite: ClassVar[bool] = True


class InvalidMinitransaction(SinfoniaError):
    """The minitransaction breaks a rule that is checked before anything is sent."""


class LimitExceeded(InvalidMinitransaction):
    """More items or bytes than a minitransaction may have; the message names the limit."""


class OutOfRange(InvalidMinitransaction):
    """An item names bytes that the memory node does not have."""


class NotExecuted(SinfoniaError):
    """The minitransaction did not happen and never will."""


class Contended(NotExecuted):
    """The locks that the minitransaction needs stayed busy until its deadline."""


class TimedOut(NotExecuted):
    """No answer came before the deadline; it had no write items, so nothing can have changed."""


class Overloaded(NotExecuted):
    """A memory node had reached a limit and took nothing more until the deadline; it says which."""


class Refused(NotExecuted):
    """A memory node will not do what was asked; the message says why."""


class OutcomeUnknown(SinfoniaError):
    """The deadline passed with the minitransaction on its way.

    It may have happened, may still happen, or never; ``Cluster.outcome(error.tid)`` settles it.
    """

    definite: ClassVar[bool] = False

    def __init__(self, message: str, tid: Any) -> None:  # noqa: ANN401 - defined above this module
        super().__init__(message)
        self.tid = tid


class Unreachable(SinfoniaError):
    """No process that was asked answered within the time allowed; the message says where."""


class ConfigError(SinfoniaError):
    """A configuration file or command-line option is wrong."""


class StorageError(SinfoniaError):
    """A data directory, log or image cannot be used as it is."""


class DamagedData(StorageError):
    """What was on stable storage is missing or fails its checksum; serving it would lose writes.

    A member of a memory node with replicas is repaired from an in-sync copy.
    """


class CorruptLog(DamagedData):
    """A part of the redo log that was synced is missing or fails its checksum."""


class SyncFailed(StorageError):
    """A write or sync failed; what was written since the last good one may be there or not."""


class DataDirectoryInUse(StorageError):
    """Another process holds the data directory."""


class BackupError(SinfoniaError):
    """A backup cannot be taken as asked, or what was asked of it cannot be restored."""


class DamagedBackup(BackupError):
    """A file of a backup is missing, or is not what was written; the message names it."""


class ProtocolError(SinfoniaError):
    """Bytes arrived that are not a message of this protocol."""
