"""Trajectories of torch.optim, as recorded by record_torch.py, replayed."""

import json
from pathlib import Path

import brainstate
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES

import braintools_optim as bo

GOLDEN = np.load(Path(__file__).parent / 'golden' / 'torch_core.npz')
RECORDED = {case['name']: case for case in json.loads(GOLDEN['cases'].item())}
WIDE = {'problem': 'float64', 'problem_z': 'complex128'}
NARROW = {'problem': 'float32', 'problem_z': 'complex64'}


def stored(prefix):
    """The arrays under a prefix, by leaf."""
    return {k.removeprefix(prefix): GOLDEN[k] for k in GOLDEN.files if k.startswith(prefix)}


def as_tuple(options):
    """JSON has made lists of tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}


def replay(case, dtype):
    """The parameters after each step, by leaf."""
    params = {
        leaf: brainstate.ParamState(jnp.asarray(value, dtype))
        for leaf, value in stored(f'{case["problem"]}/params/').items()
    }
    grads = stored(f'{case["problem"]}/grads/')
    cls, kwargs = getattr(bo, case['optimizer']), as_tuple(case['kwargs'])
    groups = case.get('groups') or [{'params': list(params)}]
    first, *others = [({k: params[k] for k in g['params']}, as_tuple(g)) for g in groups]
    opt = cls(**kwargs).register_trainable_weights(first[0])
    for name, value in first[1].items():
        if name != 'params':
            opt.param_groups[0][name] = value
    for members, options in others:
        opt.add_param_group(members, **{k: v for k, v in options.items() if k != 'params'})
    changes, absent = dict(case.get('changes', ())), case.get('absent', {})
    steps = len(next(iter(grads.values())))
    trajectory = {leaf: [] for leaf in params}
    for t in range(steps):
        for group in opt.param_groups:
            group.update(as_tuple(changes.get(t, {})))
        opt.step(
            {
                leaf: None if t in absent.get(leaf, ()) else jnp.asarray(g[t], dtype)
                for leaf, g in grads.items()
            }
        )
        for leaf, state in params.items():
            trajectory[leaf].append(np.asarray(state.value))
    return {leaf: np.stack(values) for leaf, values in trajectory.items()}


def error(case, dtype):
    """The largest deviation from torch, relative to how far torch had come by then."""
    want, start = stored(f'{case["name"]}/{dtype}/'), stored(f'{case["problem"]}/params/')
    got = replay(case, dtype)
    assert got.keys() == want.keys()
    worst = 0.0
    for leaf, theirs in want.items():
        assert got[leaf].dtype == theirs.dtype and got[leaf].shape == theirs.shape
        axes = tuple(range(1, theirs.ndim))
        off = np.abs(got[leaf] - theirs).max(axis=axes)
        far = np.abs(theirs - start[leaf].astype(theirs.dtype)).max(axis=axes)
        # In float32 the parameters themselves are rounded: relative to their size then.
        size = far if theirs.dtype.name in WIDE.values() else np.abs(theirs).max(axis=axes)
        moved = far > 0
        assert (off[~moved] == 0).all()
        worst = max(worst, (off[moved] / size[moved]).max(initial=0.0))
    return worst


@pytest.mark.parametrize('name', RECORDED)
def test_float64_is_torch(name, x64):
    assert error(RECORDED[name], WIDE[RECORDED[name]['problem']]) <= 1e-9


@pytest.mark.parametrize('name', RECORDED)
def test_float32_is_torch(name):
    assert error(RECORDED[name], NARROW[RECORDED[name]['problem']]) <= 2e-5


def test_every_oracle_of_the_registry_is_recorded():
    assert {c.oracle for c in CASES if c.oracle} <= {c['optimizer'] for c in RECORDED.values()}


@pytest.mark.parametrize('cls', [bo.Adam, bo.AdamW])
def test_first_update_with_a_decay_close_to_one(cls):
    # 1 - b2**t by subtraction is 9 % off here in float32.
    grad = np.array([3.0, -0.02, 1e-3, -250.0], np.float32)
    weight = brainstate.ParamState(jnp.zeros(4))
    opt = cls(lr=0.1, betas=(0.9, 1 - 1e-7), eps=1e-30, weight_decay=0.0)
    opt.register_trainable_weights({'w': weight})
    opt.step({'w': jnp.asarray(grad)})
    np.testing.assert_allclose(weight.value, -0.1 * np.sign(grad), rtol=1e-6)
