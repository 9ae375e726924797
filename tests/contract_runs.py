"""What several of the contract's tests run and look at."""

import jax
import numpy as np
from cases import (
    SHAPES,
    build,
    grads_tree,
    make_params,
)
from looking import (
    named,
)


def assert_numbers_are_plain(opt):
    for name in set(opt._numbers) - {'lr'}:
        assert all(type(x) is float for x in jax.tree.leaves(getattr(opt, name))), name
    assert all(type(lr) is float for lr in opt.get_last_lr())


def assert_usable(opt, params):
    """The optimizer shows its numbers and steps on, to finite values."""
    assert_numbers_are_plain(opt)
    assert type(opt).__name__ in repr(opt)
    before, count = named(params), int(opt.step_count.value)
    opt.step(grads_tree(2))
    after = named(params)
    assert int(opt.step_count.value) == count + 1
    assert all(np.isfinite(after[k]).all() for k in SHAPES)
    assert any((after[k] != before[k]).any() for k in SHAPES)


def start_run(case, steps):
    params = make_params()
    opt = build(case, params, groups=2)
    for t in range(steps):
        opt.step(grads_tree(t))
    return opt, params


def moments(opt):
    """All of an optimizer's state that belongs to a parameter, as {(slot, parameter): value}."""
    slots = [(s, v) for group in opt.state_dict()['opt_state'].values() for s, v in group.items()]
    return {(s, name): np.asarray(v[name]) for s, v in slots for name in v if name}


def kept(before, after, names):
    """The slots of the parameters are bit for bit what they were."""
    return all(
        after[key].tobytes() == value.tobytes()
        for key, value in before.items()
        if any(key[1] == name for name in names)
    )
