"""What tests see of optimizers and trees of arrays, and how they compare it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np


def is_state(x: Any) -> bool:
    return isinstance(x, brainstate.State)


def values_of(params: Any) -> Any:
    """Return the tree of the parameters' values."""
    return jax.tree.map(lambda x: x.value if is_state(x) else x, params, is_leaf=is_state)


def named(tree: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a tree of values or States by dotted name."""
    flat, _ = jax.tree_util.tree_flatten_with_path(values_of(tree))
    return {'.'.join(str(k.key) for k in path): np.asarray(x) for path, x in flat}


def all_states(opt: Any, params: Any) -> list[Any]:
    """Return the values of all States of an optimizer and its parameters."""
    numbers = [opt._table.read(*slot) for slot in opt._table.slots]
    schedulers = [x.value for s in opt._all_schedulers() for x in s._states()]
    return [values_of(params), opt._core.value, numbers, schedulers]


def chains_of(opt: Any) -> tuple:
    """Return the state of each group's chain."""
    return tuple(packed.tree for packed in opt._core.value[0])


def digest(opt: Any, params: Any) -> bytes:
    """Return every bit of an optimizer and its parameters."""
    leaves = jax.tree.leaves(all_states(opt, params))
    return b''.join(
        repr((x.dtype.name, x.shape)).encode() + x.tobytes() for x in map(np.asarray, leaves)
    )


def signature(tree: Any) -> list[Any]:
    """Return dtype, weak type and shape of every leaf, and the structure."""
    leaves, treedef = jax.tree.flatten(tree)
    types = [jax.typeof(jnp.asarray(x)) for x in leaves]
    return [(x.dtype, getattr(x, 'weak_type', False), x.shape) for x in types] + [treedef]


def ulps(a: Any, b: Any) -> float:
    """Return the largest difference in units of the last place of the larger number."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype and a.shape == b.shape
    wide = np.maximum(np.abs(a), np.abs(b))
    return float(np.max(np.abs(a - b) / np.spacing(wide), initial=0.0))


def same(a: Any, b: Any) -> bool:
    """Whether two trees are equal."""
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )


def assert_same(got: Any, want: Any) -> None:
    """Both trees are the same arrays, bit for bit."""
    assert signature(got) == signature(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.extended):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def assert_trees_close(got: Any, want: Any, **tolerance: float) -> None:
    """Both trees are close, leaf by leaf."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, want)


def assert_close(got: Any, want: Any, rtol: float = 1e-9, what: str = '') -> None:
    """Compare trees of arrays, or dicts by name, leaf by leaf."""
    got, want = named(got), named(want)
    assert sorted(got) == sorted(want)
    for name in want:
        np.testing.assert_allclose(
            got[name], want[name], rtol=rtol, atol=1e-3 * rtol, err_msg=f'{name} {what}'
        )


_heard: list[str] = []


def _listen(event: str, duration: float, **details: Any) -> None:
    if event == '/jax/core/compile/backend_compile_duration':
        _heard.append(str(details.get('fun_name')))


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """Give a list that holds, after the block, the names of the programs compiled in it."""
    names: list[str] = []
    before = len(_heard)
    yield names
    names.extend(_heard[before:])
