"""Lists that show what somebody else keeps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import jax

__all__ = ['FixedList']


class FixedList(list):
    """A list to which nothing is added, and from which nothing is taken: that would go nowhere.

    To JAX, and where it is copied or pickled, it is a plain list.
    """

    def __init_subclass__(cls) -> None:
        jax.tree_util.register_pytree_node(cls, lambda x: (list(x), None), _plain_list)

    def how_to(self) -> str:
        """Return what to do instead."""
        raise NotImplementedError

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(self.how_to())

    append = extend = insert = pop = remove = clear = sort = reverse = _refuse
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse

    def __reduce_ex__(self, protocol: Any) -> Any:
        return list, (list(self),)


def _plain_list(_: None, entries: Iterable) -> Any:
    return list(entries)
