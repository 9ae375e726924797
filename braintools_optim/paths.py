"""Where things stand in trees: paths as JAX writes them, as plain keys, and as people read them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import reduce
from operator import getitem
from typing import Any

from .transforms.names import path_name, plain_key, spelled_out

__all__ = ['Keys', 'elementary', 'nest', 'path_name', 'plain_key', 'plain_keys', 'spelled_out',
           'taken_out']  # fmt: skip

Keys = tuple[Hashable, ...]


def plain_keys(path: tuple) -> Keys:
    """Return what the entries of a JAX key path index with."""
    return tuple(map(plain_key, path))


def elementary(keys: Keys) -> Keys:
    """Return keys with tuples taken apart: ``('a', 'b')`` in one key or two are alike."""
    return tuple(k for key in keys for k in (key if isinstance(key, tuple) else (key,)))


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


def taken_out(paths: Sequence[tuple], tree: Any) -> list:
    """Return what stands under each path, where :func:`nest` puts it."""
    return [reduce(getitem, plain_keys(path), tree) for path in paths]
