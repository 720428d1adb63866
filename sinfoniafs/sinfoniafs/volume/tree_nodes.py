"""An attempt sees each node of a directory's tree as it was found, with its own changes to it.

A tree node that was read is validated when the attempt commits, by its version.  A changed tree
node gets the next version.
"""

from sinfoniafs.format.directory import Interior, Leaf, TreeNode
from sinfoniafs.format.layout import BlockNumber, next_version
from sinfoniafs.volume.items import Items
from sinfoniafs.volume.numbers import Numbers
from sinfoniafs.volume.volume import Volume


class TreeNodes:
    """The nodes of directories' trees that one attempt has read and changed."""

    def __init__(self, volume: Volume, items: Items, numbers: Numbers) -> None:
        self._volume = volume
        self._items = items
        self._numbers = numbers
        self._current: dict[BlockNumber, TreeNode] = {}
        # Changed tree nodes: what to write of each, None for the whole of it.
        self._patches: dict[BlockNumber, list[tuple[int, bytes]] | None] = {}
        self._dropped: list[BlockNumber] = []

    async def get(self, block: BlockNumber, height: int) -> TreeNode:
        """The tree node in ``block``, which is a leaf at height 0."""
        found = self._current.get(block)
        if found is not None:
            return found
        cache = self._volume.cache.tree_nodes
        found = cache.get(block)
        if found is None:
            image = await self._volume.load_block(block)
            found = (Interior if height else Leaf).decode(block, image)
            cache.put(block, found)
        self._items.compare_tree_node(block, found.version)
        self._current[block] = found
        return found

    def put(self, tree_node: TreeNode, patch: tuple[int, bytes] | None = None) -> None:
        """Let a tree node be as given; ``patch`` is all that changed besides its head."""
        patches = self._patches.get(tree_node.block, [])
        if patch is None or patches is None:
            self._patches[tree_node.block] = None
        else:
            self._patches[tree_node.block] = [*patches, patch]
        self._current[tree_node.block] = tree_node

    def drop(self, tree_node: TreeNode) -> None:
        """Free a tree node's block."""
        self._patches.pop(tree_node.block, None)
        self._dropped.append(tree_node.block)
        self._numbers.free_blocks([tree_node.block])

    def write(self) -> None:
        """Add the items that write what was changed."""
        for block, patches in self._patches.items():
            tree_node = self._current[block]
            tree_node = tree_node._replace(version=next_version(tree_node.version))
            self._current[block] = tree_node
            if patches is None or isinstance(tree_node, Interior):
                self._items.write_block(block, 0, tree_node.encode())
                continue
            self._items.write_block(block, 0, tree_node.encode_head())
            for offset, data in patches:
                self._items.write_block(block, offset, data)

    def publish(self) -> None:
        """The attempt has committed: what it saw is what the cache holds."""
        cache = self._volume.cache.tree_nodes
        for block, tree_node in self._current.items():
            cache.put(block, tree_node)
        for block in self._dropped:
            cache.drop(block)
