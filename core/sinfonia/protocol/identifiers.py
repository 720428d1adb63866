"""What messages and log records name things by."""

import contextlib
import re
from typing import Annotated, Self

import msgspec

Counter = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Uint64 = Annotated[int, msgspec.Meta(ge=0)]  # MessagePack has nothing larger than 2**64 - 1

# The number of a record: 1 is the first that a memory node ever logged, whichever of its members
# was the primary then.  0 says "before the first".
Seq = Counter


_TID = re.compile(r"(\d{1,19})\.([0-9a-f]{16})\.(\d{1,19})", re.ASCII)


class Tid(msgspec.Struct, array_like=True, frozen=True, gc=False, order=True):
    """Identity of a minitransaction attempt: never used again, aged by ``epoch``."""

    epoch: Counter
    client: Uint64
    counter: Counter

    def __str__(self) -> str:
        return f"{self.epoch}.{self.client:016x}.{self.counter}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of ``str``.  Raises ValueError."""
        match = _TID.fullmatch(text)
        if match is not None:
            parts = [int(match[1]), int(match[2], 16), int(match[3])]
            with contextlib.suppress(msgspec.ValidationError):
                return msgspec.convert(parts, cls)
        raise ValueError(f"{text!r} is not a tid; it looks like 0.00000000000000ff.12")
