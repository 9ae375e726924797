"""Counts, not times: what XLA is given to compile."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from braintools_optim.transforms import (
    scale_by_adam,
    scale_by_nadam,
    scale_by_quad,
    scale_by_radam,
    scale_by_skew,
)
from braintools_optim.transforms.count import spread

pytestmark = pytest.mark.exact


@pytest.mark.parametrize('dtype', [np.float32, np.int32, bool])
def test_entries_of_many_leaves(dtype):
    vector = np.arange(50).astype(dtype)
    tree = {f'{i:02d}': optax.MaskedNode() if i % 7 == 3 else np.zeros(i % 3) for i in range(50)}
    got = jax.jit(lambda v: spread(v, tree))(vector)
    for i, (name, leaf) in enumerate(tree.items()):
        masked = isinstance(leaf, optax.MaskedNode)
        assert isinstance(got[name], optax.MaskedNode) if masked else got[name] == vector[i]


def test_entries_where_the_first_is_not_finite():
    vector = jnp.arange(40.0).at[0].set(jnp.nan)
    tree = [np.zeros(1)] * 40
    np.testing.assert_array_equal(jax.jit(lambda v: spread(v, tree))(vector)[1:], vector[1:])


def kernels(transform, leaves):
    """Return the bodies of the kernels that XLA makes of an update, without their names."""
    params = {f'{i:03d}': jnp.ones((4, 4)) for i in range(leaves)}
    state = transform.init(params)
    text = jax.jit(transform.update).lower(params, state).compile().as_text()
    bodies = re.findall(r'^%fused_computation\S* .*?^}', text, re.MULTILINE | re.DOTALL)
    return [re.sub(r'metadata=\{[^}]*\}|%[\w.-]+|param_[\d.]+', '', body) for body in bodies]


@pytest.mark.parametrize('make', [scale_by_adam, scale_by_nadam, scale_by_radam])
def test_equal_leaves_have_equal_kernels(make):
    bodies = kernels(make(), 40)
    assert len(set(bodies)) <= 12 < 40 < len(bodies)


@pytest.mark.parametrize('make', [scale_by_quad, scale_by_skew])
def test_kernels_of_factors_do_not_grow_with_leaves(make):
    few, many = kernels(make(), 3), kernels(make(), 24)
    assert len(set(many)) <= len(set(few)) < len(few) < len(many)
    lines = [sum(body.count('\n') for body in bodies) for bodies in (few, many)]
    # What learns the factors is not part of what cuts each leaf out (136 lines; with it, 270).
    assert lines[1] - lines[0] <= 200 * 21
