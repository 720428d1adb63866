"""Sinfonia: minitransactions as a service.

::

    cli                     the `sinfonia` command
    operating               the handle on a cluster: start, stop, find, ask, operate
    backup                  copies of all memory nodes as of one moment, while clients go on
    structures              leases, exactly-once, space, rings and maps, on the public API only
    memnode client management   the three kinds of process: memory, application, management node
    transport  storage      ZeroMQ; redo log and disk image
    protocol                pure machines: no clock, socket, file, thread or randomness
    minitransaction  rings  addresses  figures  errors

Imports point down this list, never up.  `checking`, `simulation` and `testing` stand beside it and
ship, so that what is built on Sinfonia can be tested with them.
"""

from sinfonia.addresses import Address as Address
from sinfonia.addresses import MemoryNodeId as MemoryNodeId
from sinfonia.client.api import ClusterApi as ClusterApi
from sinfonia.client.blocking import BlockingCluster as BlockingCluster
from sinfonia.client.blocking import connect_blocking as connect_blocking
from sinfonia.client.cluster import Cluster as Cluster
from sinfonia.client.cluster import connect as connect
from sinfonia.client.load import NodeLoad as NodeLoad
from sinfonia.client.load import WindowLoad as WindowLoad
from sinfonia.client.watch import BlockingWatch as BlockingWatch
from sinfonia.client.watch import Watch as Watch
from sinfonia.errors import ConfigError as ConfigError
from sinfonia.errors import Contended as Contended
from sinfonia.errors import CorruptLog as CorruptLog
from sinfonia.errors import DataDirectoryInUse as DataDirectoryInUse
from sinfonia.errors import InvalidMinitransaction as InvalidMinitransaction
from sinfonia.errors import LimitExceeded as LimitExceeded
from sinfonia.errors import NotExecuted as NotExecuted
from sinfonia.errors import OutcomeUnknown as OutcomeUnknown
from sinfonia.errors import OutOfRange as OutOfRange
from sinfonia.errors import Overloaded as Overloaded
from sinfonia.errors import ProtocolError as ProtocolError
from sinfonia.errors import Refused as Refused
from sinfonia.errors import SinfoniaError as SinfoniaError
from sinfonia.errors import StorageError as StorageError
from sinfonia.errors import SyncFailed as SyncFailed
from sinfonia.errors import TimedOut as TimedOut
from sinfonia.errors import Unreachable as Unreachable
from sinfonia.minitransaction import FailedCompare as FailedCompare
from sinfonia.minitransaction import Minitransaction as Minitransaction
from sinfonia.minitransaction import Relation as Relation
from sinfonia.minitransaction import Result as Result
from sinfonia.transport.keys import Keys as Keys
from sinfonia.transport.keys import load_keys as load_keys
