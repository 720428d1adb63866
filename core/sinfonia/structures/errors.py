"""What goes wrong with a structure is said as what went wrong with a minitransaction: known or not.

::

    StructureError
    |-- NotFormatted       definite: the bytes are not such a structure, or of other sizes
    |-- LeaseLost          definite: the lease has passed on; what was guarded by it was refused
    |-- WrongPosition      definite: a position of a ring that was never written
    |-- NoSpace            definite: no room is left; the message says where and what to do
    |-- NotAllocated       definite: blocks that were to be freed are free already
    |-- TableFull          definite: every slot of a client table is taken
    |-- OutOfSequence      definite: a client's operation is neither its last nor its next
    `-- Forgotten          unknown: a client was taken for dead; what it last did may have happened
"""

from typing import ClassVar

from sinfonia.errors import SinfoniaError


class StructureError(SinfoniaError):
    """Base of the errors that structures raise of their own."""


class NotFormatted(StructureError):
    """The bytes at an address are not the structure that was expected there."""


class LeaseLost(StructureError):
    """The lease has passed on to another holder, or was released."""


class WrongPosition(StructureError):
    """A position of a ring beyond its tail; nothing was changed."""


class NoSpace(StructureError):
    """There is no room for what was asked."""


class NotAllocated(StructureError):
    """Blocks that are free cannot be freed; nothing was changed."""


class TableFull(StructureError):
    """Every slot of the client table is taken."""


class OutOfSequence(StructureError):
    """A client's operation is neither the last of its lane nor the next."""


class Forgotten(StructureError):
    """The client's slot was taken from it, for it seemed to be dead.

    Nothing that it does from now on takes effect; what it did last may have happened or not.
    """

    definite: ClassVar[bool] = False
