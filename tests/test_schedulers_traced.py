"""Construction, attaching and stepping with traced learning rates give what they give outside."""

import copy

import jax.numpy as jnp
import numpy as np
import pytest
from brainstate import ParamState
from brainstate.transform import jit, vmap

import braintools_optim as bo


def one_group(lr):
    return bo.SGD(lr).register_trainable_weights({'w': ParamState(jnp.ones(2))})


def joined(opt, lr):
    opt.add_param_group({'v': ParamState(jnp.ones(2))}, lr=lr)
    return opt


def two_groups(lr, ratio=0.5):
    return joined(one_group(lr), lr * ratio)


def warmed_up(opt):
    parts = [bo.LinearLR(opt, total_iters=2), bo.CosineAnnealingLR(opt, T_max=3)]
    return bo.SequentialLR(parts, milestones=[2])


def sequence_before_a_group(lr):
    opt = one_group(lr)
    scheduler = warmed_up(opt)
    joined(opt, lr * 0.5)
    return opt, scheduler


def sequence_after_a_group(lr):
    opt = two_groups(lr)
    return opt, warmed_up(opt)


def sequence_of_other_bases(lr):
    parts = [bo.ExponentialLR(base, gamma=0.5) for base in (lr, lr * 0.1)]
    scheduler = bo.SequentialLR(parts, milestones=[2])
    return joined(one_group(scheduler), lr * 3), scheduler


def sequence_within_a_sequence(lr):
    opt = one_group(lr)
    late = bo.ConstantLR(opt, factor=0.2, total_iters=1)
    scheduler = bo.SequentialLR([bo.StepLR(opt, step_size=1), late], milestones=[1])
    joined(opt, lr * 2)
    return opt, scheduler


def base_given_to_two_groups(lr):
    opt = two_groups(lr)
    scheduler = bo.StepLR(lr, step_size=2)
    opt.add_scheduler(scheduler)
    return opt, scheduler


def base_given_to_equal_groups(lr):
    opt = two_groups(lr, 1.0)
    scheduler = bo.StepLR(lr * 2, step_size=2)
    opt.add_scheduler(scheduler)
    return opt, scheduler


def assigned_bases(lr):
    opt = two_groups(lr)
    parts = [bo.ExponentialLR(opt, gamma=0.5), bo.LinearLR(opt, total_iters=3)]
    scheduler = bo.ChainedScheduler(parts)
    scheduler.base_lrs = [lr * 3, lr]
    return opt, scheduler


WAYS = [
    *(sequence_before_a_group, sequence_after_a_group, sequence_of_other_bases),
    *(sequence_within_a_sequence, base_given_to_two_groups, base_given_to_equal_groups),
    assigned_bases,
]


@pytest.mark.parametrize('way', WAYS)
def test_traced_rates_are_those_of_numbers(way):
    def rates(lr):
        opt, scheduler = way(lr)
        found = []
        for _ in range(5):
            found.append(jnp.stack([jnp.asarray(x) for x in opt.get_last_lr()]))
            scheduler.step()
        return jnp.stack(found)

    want = [rates(lr) for lr in (0.1, 0.3)]
    assert len({tuple(np.asarray(w[:, 0] / w[:, 1]).round(4)) for w in want}) == 1
    np.testing.assert_allclose(vmap(rates)(jnp.array([0.1, 0.3])), jnp.stack(want), rtol=2e-6)
    np.testing.assert_allclose(jit(rates)(0.1), want[0], rtol=2e-6)


def test_parts_of_other_bases_are_entered_alike_in_jit():
    """By ``step(epoch)``, in a sequence within a chain."""

    def built():
        late = bo.SequentialLR([bo.ExponentialLR(base, gamma=0.9) for base in (0.5, 0.02)], [2])
        return one_group(bo.ChainedScheduler([bo.StepLR(step_size=2, gamma=0.5), late]))

    plain, traced = built(), built()
    step = jit(lambda epoch: traced.lr.step(epoch))
    for epoch in (4, 1, 3, 0):
        plain.lr.step(epoch)
        step(jnp.int32(epoch))
        np.testing.assert_allclose(traced.current_lr, plain.current_lr, rtol=1e-6)


def test_the_bases_of_a_sequence_are_assigned_outside():
    opt = one_group(bo.SequentialLR([bo.StepLR(0.1), bo.StepLR(0.5)], milestones=[2]))
    before = opt.lr.state_dict()

    def assign(lr):
        opt.lr.base_lrs = [lr]

    with pytest.raises(ValueError, match=r'SequentialLR must know its epoch.*outside'):
        jit(assign)(0.2)
    assert opt.lr.state_dict() == before
    assign(0.2)
    assert opt.current_lr == 0.2


def test_attaching_what_old_traces_do_not_step_warns():
    w = ParamState(jnp.ones(2))
    opt = bo.SGD(1.0).register_trainable_weights({'w': w})

    def epoch(grads):
        opt.step(grads)
        opt.lr.step()

    stale, grads = jit(epoch), {'w': jnp.ones(2)}
    stale(grads)
    other = copy.deepcopy(opt)  # no function steps its lr
    bo.StepLR(other, step_size=1, gamma=0.5)
    with pytest.warns(UserWarning, match='traced before StepLR was attached.* to jit anew'):
        bo.StepLR(opt, step_size=1, gamma=0.5)
    stale(grads)
    assert opt.current_lr == 1.0
    fresh = jit(epoch)
    fresh(grads)
    assert opt.current_lr == 0.5
    bo.ExponentialLR(opt, gamma=0.5)  # beside one that is stepped


def test_a_preview_in_a_traced_program_is_that_of_outside(x64):
    opt = two_groups(0.1)
    scheduler = warmed_up(opt)
    seen = jit(lambda: (scheduler.preview(4), scheduler.preview(0)))()
    np.testing.assert_allclose(seen[0], scheduler.preview(4), rtol=1e-12)
    assert seen[1].size == 0 and type(scheduler.preview(4)) is np.ndarray
