"""Sinfonia: minitransactions as a service.

::

    cli                     the `sinfonia` command
    memnode client management   the three kinds of process: memory, application, management node
    transport  storage      ZeroMQ; redo log and disk image
    protocol                pure machines: no clock, socket, file, thread or randomness
    minitransaction  addresses  errors

Imports point down this list, never up.  `testing` (simulator, virtual network and disk, model)
stands beside it and ships, so that what is built on Sinfonia can be tested with it.
"""

from sinfonia.addresses import Address as Address
from sinfonia.addresses import MemoryNodeId as MemoryNodeId
from sinfonia.client.api import ClusterApi as ClusterApi
from sinfonia.client.cluster import Cluster as Cluster
from sinfonia.client.cluster import connect as connect
from sinfonia.minitransaction import FailedCompare as FailedCompare
from sinfonia.minitransaction import Minitransaction as Minitransaction
from sinfonia.minitransaction import Result as Result
