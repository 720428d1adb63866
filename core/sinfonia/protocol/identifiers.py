"""What messages and log records name things by."""

from typing import Annotated

import msgspec

Counter = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Uint64 = Annotated[int, msgspec.Meta(ge=0)]  # MessagePack has nothing larger than 2**64 - 1

# The number of a record: 1 is the first that a memory node ever logged, whichever of its members
# was the primary then.  0 says "before the first".
Seq = Counter


class Tid(msgspec.Struct, array_like=True, frozen=True, gc=False, order=True):
    """Identity of a minitransaction attempt: never used again, aged by ``epoch``."""

    epoch: Counter
    client: Uint64
    counter: Counter

    def __str__(self) -> str:
        return f"{self.epoch}.{self.client:016x}.{self.counter}"
