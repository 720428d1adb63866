"""What each step of a minitransaction costs: the whole of the model, and nothing hidden elsewhere.

A process handles what has come, one thing after another, and all of it takes time that is a sum of
these constants.  A message takes a constant time to cross the network, and some for each byte;
links do not queue.  All times are in microseconds of processor time, or of the network's.
"""

import msgspec


class MemoryNodeCosts(msgspec.Struct, frozen=True, kw_only=True):
    """A memory node in mode RAM.

    ``batch_us``: one batch received, or one sent.  Each kind of request includes its reply, and
    ``exec_prepare_us`` the Forget that follows sooner or later.  ``participant_us``: one id in the
    list of participants that each ExecPrepare carries.
    """

    batch_us: float
    exec_commit_us: float
    exec_commit_swap_us: float
    exec_prepare_us: float
    exec_prepare_swap_us: float
    commit_us: float
    participant_us: float


class ApplicationNodeCosts(msgspec.Struct, frozen=True, kw_only=True):
    """A coordinator that pipelines.

    ``batch_us``: one batch sent, or one received.  ``message_us``: one request or one reply.
    ``minitransaction_us``: what is left of building, beginning and finishing one.
    """

    batch_us: float
    minitransaction_us: float
    message_us: float
    swap_us: float
    participant_us: float


class NetworkCosts(msgspec.Struct, frozen=True, kw_only=True):
    """One way.  The defaults are a local network of 1 Gbit/s, as the paper's was."""

    latency_us: float = 50.0
    byte_us: float = 0.008


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """All there is to know about the speed of machines and network."""

    memory_node: MemoryNodeCosts
    application_node: ApplicationNodeCosts
    network: NetworkCosts = NetworkCosts()


# Found by `python -m bench.scale --measure` with CPython 3.11 on a virtual machine with
# two cores of an AMD EPYC.
RECORDED = Costs(
    memory_node=MemoryNodeCosts(
        batch_us=2.7,
        exec_commit_us=1.4,
        exec_commit_swap_us=0.37,
        exec_prepare_us=3.0,
        exec_prepare_swap_us=2.05,
        commit_us=1.6,
        participant_us=0.01,
    ),
    application_node=ApplicationNodeCosts(
        batch_us=2.7,
        minitransaction_us=3.4,
        message_us=0.52,
        swap_us=1.1,
        participant_us=0.004,
    ),
)
