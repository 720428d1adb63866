"""Every error says, as those of core do, whether the thing is known not to have happened.

::

    SinfoniaError
    `-- GroupcommError
        |-- NotALog            definite: the bytes are not a log, or not one of this shape
        |-- DamagedEntry       definite: an entry of a log fails its checksum, or makes no sense
        |-- WritersTaken       definite: every writer record of a log is claimed
        `-- Expelled           definite: the claim has ended, so nothing more is appended under it;
                               it says of which parts it is unknown whether they were

What was to be expected is a value, not an error: a reader that is too slow for what is retained
gets ``Trimmed``, a writer that the slowest reader holds up gets ``Turn.blocked``.
"""

from collections.abc import Sequence

from sinfonia import SinfoniaError


class GroupcommError(SinfoniaError):
    """Base of the errors that this room raises of its own."""


class NotALog(GroupcommError):
    """The bytes at an address are not the log that was expected there; nothing was changed."""


class DamagedEntry(GroupcommError):
    """An entry of a log cannot be read: another program has written there."""


class WritersTaken(GroupcommError):
    """Every writer record of the log is claimed; nothing was changed."""


class Expelled(GroupcommError):
    """The claim of a writer record has ended: another program released it, or claimed it anew.

    Nothing more is appended under it.  Of the parts that no turn has told of, those with tickets
    in ``appended`` are in the log; whether those in ``in_doubt`` are cannot be known; all others
    are not, and never will be.  Mostly both are empty.
    """

    def __init__(self, message: str, appended: Sequence[int], in_doubt: Sequence[int]) -> None:
        super().__init__(message)
        self.appended = appended
        self.in_doubt = in_doubt
