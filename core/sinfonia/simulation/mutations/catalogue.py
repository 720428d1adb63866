"""Rules of the protocol, each of them broken on purpose.

A simulator that finds nothing may be a simulator that looks at nothing.  So one rule at a time is
taken out of the real code; the simulator has to notice within a few runs, and if it does not, it is
the simulator that needs mending.
"""

from sinfonia.simulation.mutations import agreement as mutations_of_agreement
from sinfonia.simulation.mutations import clocks as mutations_of_clocks
from sinfonia.simulation.mutations import copies as mutations_of_copies
from sinfonia.simulation.mutations import damage as mutations_of_damage
from sinfonia.simulation.mutations import durability as mutations_of_durability
from sinfonia.simulation.mutations import items as mutations_of_items
from sinfonia.simulation.mutations import rebuilding as mutations_of_rebuilding
from sinfonia.simulation.mutations import replication as mutations_of_replication
from sinfonia.simulation.mutations.mutation import Mutation

MUTATIONS: dict[str, Mutation] = {
    each.name: each
    for module in (
        mutations_of_durability,
        mutations_of_agreement,
        mutations_of_replication,
        mutations_of_copies,
        mutations_of_damage,
        mutations_of_items,
        mutations_of_clocks,
        mutations_of_rebuilding,
    )
    for each in vars(module).values()
    if isinstance(each, Mutation)
}
