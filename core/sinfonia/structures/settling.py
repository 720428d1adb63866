"""A step with an unknown outcome is taken again, if twice is as good as once.

That is so if the minitransaction changes something that it compares: of all its copies, those still
on their way included, one can be committed.  A copy that fails its compare then leaves the question
whether an earlier one was it; the structures answer that by a mark of their own among the bytes (an
attempt's number, a client's sequence).  Whether an earlier one may *still* be committed depends on
what it compares: numbers that only grow never match again, anything else may.
"""

from typing import Any

from sinfonia.client.steps import Steps, execute
from sinfonia.errors import NotExecuted, OutcomeUnknown
from sinfonia.minitransaction import Minitransaction, Result

# The first unknown outcome means that a deadline has passed; one more try settles it where there
# was a deadline for the step only, and more than a few mean that the cluster is not there.
TRIES_MAX = 3


def execute_until_known(minitransaction: Minitransaction[Any]) -> Steps[Result]:
    """Execute what can be committed once only; if its outcome is unknown, again.

    Returns the result of the last copy.  Raises what ``Cluster.execute`` raises; OutcomeUnknown if
    the outcome of any copy is unknown still.
    """
    unknown: OutcomeUnknown | None = None
    for _ in range(TRIES_MAX):
        try:
            return (yield from execute(minitransaction))
        except OutcomeUnknown as error:
            unknown = unknown or error
        except NotExecuted:
            # This copy did not happen; the one before may have.
            if unknown is None:
                raise
            break
    assert unknown is not None
    raise unknown
