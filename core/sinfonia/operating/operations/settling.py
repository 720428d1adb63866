"""A tid that waits for a participant that never existed is settled, and its locks are let go."""

import time

from sinfonia.operating.actions import Done
from sinfonia.operating.operators import LOOK_EVERY, Operator
from sinfonia.operating.refusals import NotYet
from sinfonia.protocol.identifiers import Tid
from sinfonia.protocol.membership.messages import Settle, UnsettledTid

# The other participants are asked, told to abort, and sync that: seconds, if they are up.
SETTLE_PATIENCE = 30.0


def settle_tid(operator: Operator, tid: Tid, *, force: bool = False) -> Done:
    """Have ``tid`` aborted, and wait until all participants that exist know."""
    if _find(operator, tid) is None:
        return Done(False, f"{tid} is not in doubt, as far as the manager knows.")
    operator.request(Settle(tid, force))
    deadline = time.monotonic() + SETTLE_PATIENCE
    while (left := _find(operator, tid)) is not None:
        if time.monotonic() >= deadline:
            silent = ", ".join(map(str, left.silent)) or "none"
            raise NotYet(
                f"{tid} is not settled within {SETTLE_PATIENCE:g} s; memory nodes that do not "
                f"answer: {silent}; say the same again to wait on"
            )
        time.sleep(LOOK_EVERY)
    return Done(True, f"{tid} is aborted; its locks are free.")


def _find(operator: Operator, tid: Tid) -> UnsettledTid | None:
    return next(iter(operator.unsettled(tid).tids), None)
