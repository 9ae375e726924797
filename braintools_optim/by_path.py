"""What a tree says of arrays: each of its ends holds for all that is under its keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
from saiunit import Quantity

from .paths import Keys, elementary, plain_key

__all__ = ['ByPath']

Words = tuple[str, ...]


class ByPath:
    """The ends of a tree by their keys, which may be nested, tuples, or with dots."""

    def __init__(self, tree: Any):
        self.ends: dict[Words, Any] = {}
        for words, end in _ends(tree):
            if words in self.ends and self.ends[words] is not end:
                raise ValueError(
                    f'the tree says two things of {".".join(words)!r}: {self.ends[words]!r} and '
                    f'{end!r}. Keys with dots are nested keys; give these parameters other names.'
                )
            self.ends[words] = end

    def at(self, path: Keys) -> Any:
        """Return the end with most of a path's keys, None if the tree says nothing there."""
        words = _words(path)
        tops = (words[:count] for count in range(len(words), -1, -1))
        return next((self.ends[top] for top in tops if top in self.ends), None)

    def beside(self, paths: Iterable[Keys]) -> dict[str, Any]:
        """Return the ends under whose keys none of these paths is, by these keys with dots."""
        met = {words[:i] for words in map(_words, paths) for i in range(len(words) + 1)}
        return {'.'.join(words): end for words, end in self.ends.items() if words not in met}


def _words(keys: Keys) -> Words:
    return tuple(word for key in elementary(keys) for word in str(key).split('.'))


def _ends(node: Any, keys: Keys = ()) -> Iterator[tuple[Words, Any]]:
    if (entries := _entries(node)) is None:
        yield _words(keys), node
    else:
        for key, below in entries.items():
            yield from _ends(below, (*keys, key))


def _entries(node: Any) -> Mapping[Any, Any] | None:
    """Return what is in a node of a tree by its keys, None if it is an end."""
    if isinstance(node, Mapping):
        return node
    if node is None or callable(node) or isinstance(node, Quantity):
        return None
    pairs, _ = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    if any(not path for path, _ in pairs):
        return None
    return {plain_key(path[0]): below for path, below in pairs}
