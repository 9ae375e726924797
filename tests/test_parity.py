"""Trajectories of torch.optim, as recorded by record_torch*.py, replayed."""

import json
from pathlib import Path

import brainstate
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from jax.experimental.sparse import BCOO

import braintools_optim as bo

FILES = [np.load(path) for path in sorted((Path(__file__).parent / 'golden').glob('torch_*.npz'))]
FILES = [file for file in FILES if 'versions' in file]  # the others are of another kind
RECORDED = {
    case['name']: case | {'file': file}
    for file in FILES
    for case in json.loads(file['cases'].item())
}
WIDE = {'problem': 'float64', 'problem_m': 'float64', 'problem_z': 'complex128'}
NARROW = {'problem': 'float32', 'problem_m': 'float32', 'problem_z': 'complex64'}
# Muon's iteration in bfloat16 is torch's bit for bit as long as all roundings fall alike.
BFLOAT16 = {'muon_bfloat16': 1e-2}


def stored(case, prefix):
    """The arrays under a prefix in the file of a case, by leaf."""
    file = case['file']
    return {k.removeprefix(prefix): file[k] for k in file.files if k.startswith(prefix)}


def as_tuple(options):
    """JSON has made lists of tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}


def positive_rows(g):
    """The rows of a gradient whose first entry is positive, as BCOO; padding for the others."""
    rows = np.where(np.asarray(g)[:, 0] > 0, np.arange(len(g)), len(g))
    return BCOO((g, rows[:, None]), shape=g.shape)


def replay(case, dtype):
    """The parameters after each step, by leaf."""
    params = {
        leaf: brainstate.ParamState(jnp.asarray(value, dtype))
        for leaf, value in stored(case, f'{case["problem"]}/params/').items()
    }
    grads = stored(case, f'{case["problem"]}/grads/')
    cls = case.get('make') or getattr(bo, case['optimizer'])
    kwargs = as_tuple(case['kwargs'])
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
    keeps = case.get('keeps', ())
    kind = positive_rows if case['optimizer'] == 'SparseAdam' else jnp.asarray
    trajectory = {name: [] for p in params for name in (p, *(f'{p}.{k}' for k in keeps))}
    for t in range(steps):
        for group in opt.param_groups:
            group.update(as_tuple(changes.get(t, {})))
        opt.step(
            {
                leaf: None if t in absent.get(leaf, ()) else kind(jnp.asarray(g[t], dtype))
                for leaf, g in grads.items()
            }
        )
        for leaf, state in params.items():
            trajectory[leaf].append(np.asarray(state.value))
        for group in opt.state_dict()['opt_state'].values() if keeps else ():
            for name in keeps:
                for leaf, value in group[name].items():
                    trajectory[f'{leaf}.{name}'].append(value)
    return {leaf: np.stack(values) for leaf, values in trajectory.items()}


def error(case, dtype):
    """The largest deviation from torch, relative to how far torch had come by then."""
    want = stored(case, f'{case["name"]}/{dtype}/')
    start = stored(case, f'{case["problem"]}/params/')
    got = replay(case, dtype)
    assert got.keys() == want.keys()
    worst = 0.0
    for leaf, theirs in want.items():
        assert got[leaf].dtype == theirs.dtype and got[leaf].shape == theirs.shape
        axes = tuple(range(1, theirs.ndim))
        off = np.abs(got[leaf] - theirs).max(axis=axes)
        first = start[leaf.partition('.')[0]].astype(theirs.dtype)
        far = np.abs(theirs - first).max(axis=axes)
        # In float32 the parameters themselves are rounded: relative to their size so far then.
        size = np.maximum.accumulate(np.maximum(np.abs(theirs).max(axis=axes), np.abs(first).max()))
        size = far if theirs.dtype.name in WIDE.values() else size
        moved = far > 0
        assert (off[~moved] == 0).all()
        worst = max(worst, (off[moved] / size[moved]).max(initial=0.0))
    return worst


@pytest.mark.parametrize('name', RECORDED)
def test_float64_is_torch(name, x64):
    assert error(RECORDED[name], WIDE[RECORDED[name]['problem']]) <= BFLOAT16.get(name, 1e-9)


# Groups and absence are of the base, whatever the precision; they would be most programs here.
OF_THE_FORMULA = [k for k, case in RECORDED.items() if not ({'groups', 'absent'} & {*case})]


@pytest.mark.parametrize('name', OF_THE_FORMULA)
def test_float32_is_torch(name):
    assert error(RECORDED[name], NARROW[RECORDED[name]['problem']]) <= BFLOAT16.get(name, 2e-5)


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
