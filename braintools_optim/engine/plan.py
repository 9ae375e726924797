"""How the leaves of a group's parameters form the tree that its chain sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import jax
import optax

from ..paths import Keys, nest
from ..state import UniqueStateManager
from .leaf import Leaf

if TYPE_CHECKING:
    from ..groups import ParamGroup

__all__ = ['GroupPlan']


class GroupPlan(NamedTuple):
    """A group, its leaves, and the tree that they form."""

    leaves: list[int]  # positions in the optimizer's list of leaves, in the tree's order
    treedef: Any
    group: ParamGroup

    @classmethod
    def of(
        cls,
        manager: UniqueStateManager,
        leaves: Sequence[Leaf],
        group: ParamGroup,
        new: Sequence[int] = (),
    ) -> Self:
        """Plan for a group and the States at positions ``new`` that it is to have besides."""
        members = [*group.members, *new]
        return cls._of(manager.unique_paths, leaves, _by_state(leaves), group, members)

    @classmethod
    def of_each(
        cls, manager: UniqueStateManager, leaves: Sequence[Leaf], groups: Sequence[ParamGroup]
    ) -> list[Self]:
        """Plan for all groups."""
        paths, numbered = manager.unique_paths, _by_state(leaves)
        return [cls._of(paths, leaves, numbered, group, group.members) for group in groups]

    @classmethod
    def _of(
        cls,
        paths: Sequence[tuple],
        leaves: Sequence[Leaf],
        numbered: dict[int, list[int]],
        group: ParamGroup,
        members: Sequence[int],
    ) -> Self:
        trees = [jax.tree.unflatten(leaves[numbered[m][0]].tree, numbered[m]) for m in members]
        order, treedef = jax.tree.flatten(nest([paths[m] for m in members], trees))
        return cls(order, treedef, group)

    def paths(self, leaves: Sequence[Leaf]) -> list[Keys]:
        """Return the paths of the group's leaves; ``leaves`` are all of the optimizer's."""
        return [leaves[i].path for i in self.leaves]

    def tree(self, per_leaf: Sequence[Any]) -> Any:
        """Return the group's tree, given something for each of the optimizer's leaves.

        Where that is None the tree is masked.
        """
        chosen = [per_leaf[i] for i in self.leaves]
        gone = optax.MaskedNode()
        return jax.tree.unflatten(self.treedef, [gone if x is None else x for x in chosen])

    def flat(self, tree: Any) -> list[Any]:
        """Return what stands in a tree of the group for each of its leaves."""
        return self.treedef.flatten_up_to(tree)


def _by_state(leaves: Sequence[Leaf]) -> dict[int, list[int]]:
    """Return the positions of the leaves of each State."""
    numbered: dict[int, list[int]] = {}
    for i, leaf in enumerate(leaves):
        numbered.setdefault(leaf.state, []).append(i)
    return numbered
