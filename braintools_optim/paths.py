"""Where things stand in trees: paths as JAX writes them, as plain keys, and as people read them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

__all__ = ['Keys', 'elementary', 'nest', 'path_name', 'plain_key', 'plain_keys']

Keys = tuple[Hashable, ...]


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


def plain_keys(path: tuple) -> Keys:
    """Return what the entries of a JAX key path index with."""
    return tuple(map(plain_key, path))


def elementary(keys: Keys) -> Keys:
    """Return keys with tuples taken apart: ``('a', 'b')`` in one key or two are alike."""
    return tuple(k for key in keys for k in (key if isinstance(key, tuple) else (key,)))


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


def nest(paths: list[tuple], leaves: list) -> dict:
    """Return nested dicts that hold each leaf under its path."""
    root: dict = {}
    for path, leaf in zip(paths, leaves, strict=True):
        *parents, last = map(plain_key, path)
        node = root
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return root
