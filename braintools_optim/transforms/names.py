"""Where a leaf stands in a tree, as people write it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

__all__ = ['path_name', 'plain_key', 'spelled_out']


def plain_key(entry: Any) -> Hashable:
    """Return what one entry of a JAX key path indexes with."""
    match entry:
        case DictKey(key) | FlattenedIndexKey(key):
            return key
        case SequenceKey(idx):
            return idx
        case GetAttrKey(name):
            return name
    return entry


def path_name(path: tuple) -> str:
    """Return a path as people write it: ``encoder.layers[0].weight``."""
    text = ''
    for entry in path:
        key = plain_key(entry)
        if isinstance(entry, SequenceKey | FlattenedIndexKey):
            text += f'[{key}]'
        else:
            word = '.'.join(map(str, key)) if isinstance(key, tuple) else str(key)
            text += f'.{word}' if text else word
    return text


def spelled_out(path: tuple) -> str:
    """Return a path with each key by itself, ``['a.b']['c']``, where its name is another's, too."""
    return ''.join(f'[{plain_key(entry)!r}]' for entry in path)
