"""Data structures on the memory of a cluster, to be shared by any number of application nodes.

A structure here is an address and sizes, never a connection: every operation is a ``Steps``
generator, carried out by ``Cluster.run``, ``BlockingCluster.run``, a model or a simulator.  What a
structure does in one minitransaction it also offers as items for a minitransaction of the caller's.

Layouts, promises and what is not promised: core/STRUCTURES.md.
"""

from sinfonia.structures.allocator import Allocator as Allocator
from sinfonia.structures.allocator import Arena as Arena
from sinfonia.structures.allocator import Reservation as Reservation
from sinfonia.structures.allocator import open_arena as open_arena
from sinfonia.structures.arena_layout import ArenaHeader as ArenaHeader
from sinfonia.structures.arena_layout import ArenaView as ArenaView
from sinfonia.structures.arena_layout import Intent as Intent
from sinfonia.structures.arena_layout import Run as Run
from sinfonia.structures.client_table import Carried as Carried
from sinfonia.structures.client_table import ClientTable as ClientTable
from sinfonia.structures.client_table import Lane as Lane
from sinfonia.structures.errors import Forgotten as Forgotten
from sinfonia.structures.errors import LeaseLost as LeaseLost
from sinfonia.structures.errors import NoSpace as NoSpace
from sinfonia.structures.errors import NotAllocated as NotAllocated
from sinfonia.structures.errors import NotFormatted as NotFormatted
from sinfonia.structures.errors import OutOfSequence as OutOfSequence
from sinfonia.structures.errors import StructureError as StructureError
from sinfonia.structures.errors import TableFull as TableFull
from sinfonia.structures.errors import WrongPosition as WrongPosition
from sinfonia.structures.guards import Guard as Guard
from sinfonia.structures.hash_map.creation import add_region as add_region
from sinfonia.structures.hash_map.creation import create_hash_map as create_hash_map
from sinfonia.structures.hash_map.drafts import Pending as Pending
from sinfonia.structures.hash_map.drafts import Stored as Stored
from sinfonia.structures.hash_map.drafts import UnsettledUpdate as UnsettledUpdate
from sinfonia.structures.hash_map.layout import MAP_HEADER_BYTES as MAP_HEADER_BYTES
from sinfonia.structures.hash_map.layout import Place as Place
from sinfonia.structures.hash_map.layout import Region as Region
from sinfonia.structures.hash_map.map import Conflict as Conflict
from sinfonia.structures.hash_map.map import Found as Found
from sinfonia.structures.hash_map.map import GuardFailed as GuardFailed
from sinfonia.structures.hash_map.map import HashMap as HashMap
from sinfonia.structures.hash_map.scan import Page as Page
from sinfonia.structures.hash_map.scan import Statistics as Statistics
from sinfonia.structures.hash_map.scan import scan as scan
from sinfonia.structures.hash_map.scan import statistics as statistics
from sinfonia.structures.lease import Held as Held
from sinfonia.structures.lease import Lease as Lease
from sinfonia.structures.lease import acquire_all as acquire_all
from sinfonia.structures.lease_layout import LEASE_BYTES as LEASE_BYTES
from sinfonia.structures.lease_layout import Claim as Claim
from sinfonia.structures.lease_layout import LeaseState as LeaseState
from sinfonia.structures.ring.cursors import Cursor as Cursor
from sinfonia.structures.ring.cursors import fetch as fetch
from sinfonia.structures.ring.cursors import follow as follow
from sinfonia.structures.ring.cursors import trim_behind as trim_behind
from sinfonia.structures.ring.ring import Full as Full
from sinfonia.structures.ring.ring import Records as Records
from sinfonia.structures.ring.ring import Ring as Ring
from sinfonia.structures.ring.ring import Trimmed as Trimmed
from sinfonia.structures.ring.writers import Stamped as Stamped
from sinfonia.structures.ring.writers import Writer as Writer
from sinfonia.structures.settling import execute_until_known as execute_until_known
