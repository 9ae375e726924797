"""Bases and present rates of schedulers: assigned, different in parts, below zero, none."""

import copy
import json

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate import ParamState
from scheduler_cases import EVERY, LRS, two_groups

import braintools_optim as bo

# ---- the base, and the present rates ------------------------------------------------------------


@EVERY
def test_a_base_that_is_assigned(case):
    """It is as if the scheduler had been built with it; PiecewiseConstantSchedule has no use."""
    want_opt, _ = two_groups([0.3, 0.04])
    want = case.make(want_opt)
    opt, _ = two_groups(LRS)
    scheduler = case.make(opt)
    scheduler.base_lrs = [0.3, 0.04]
    assert scheduler.base_lrs == [0.3, 0.04]
    if case.id == 'OneCycleLR':  # there it comes from max_lr
        assert opt.get_last_lr() == [0.3, 0.04]
        return
    for t in range(30):
        assert opt.get_last_lr() == want_opt.get_last_lr()
        case.step(want, t)
        case.step(scheduler, t)


def test_a_base_that_is_assigned_on_the_way():
    opt, _ = two_groups(bo.ExponentialLR(0.5, 0.5))
    opt.lr.step()
    opt.param_groups[0]['lr'] = 0.7
    opt.lr.base_lrs[0] = 0.3
    assert opt.lr.base_lrs == [0.3, 0.5] and opt.get_last_lr() == [0.15, 0.25]
    opt.lr.step()
    assert opt.get_last_lr() == [0.075, 0.125] and opt.base_lr == 0.3
    alone = bo.ExponentialLR(gamma=0.5)
    alone.step()
    alone.base_lrs = [0.8]
    assert alone.get_last_lr() == [0.4]
    other, _ = two_groups(0.1)
    other.add_scheduler(alone)  # it was given
    assert other.get_last_lr() == [0.4, 0.4]

    @brainstate.transform.jit
    def halve():
        opt.lr.base_lrs = [base / 2 for base in opt.lr.base_lrs]

    halve()
    assert opt.get_last_lr() == [0.0375, 0.0625]


def test_a_base_that_is_refused():
    opt, _ = two_groups(bo.LambdaLR(0.5, lambda epoch: 1.0 - epoch))
    opt.lr.step()
    before = opt.state_dict()
    for bad, says in [
        ([0.1], 'LambdaLR needs numbers for base_lrs in a list of 2, one for each group'),
        (0.1, 'base_lrs in a list of 2'),
        ([0.1, -0.1], 'base_lr'),
        ([0.1, 'x'], 'base_lr'),
    ]:
        with pytest.raises((TypeError, ValueError), match=says):
            opt.lr.base_lrs = bad
    bases = opt.lr.base_lrs
    for change in (
        lambda: bases.append(0.1),
        lambda: bases.__iadd__([0.1]),
        lambda: bases.sort(),
        lambda: bases.pop(),
        lambda: bases.__delitem__(0),
    ):
        with pytest.raises(TypeError, match='can be assigned, and nothing added'):
            change()
    assert repr(opt.state_dict()) == repr(before)
    several, _ = two_groups(0.1)
    parts = [bo.LinearLR(several), bo.ExponentialLR(several)]
    with pytest.raises(ValueError, match='LinearLR is one of several schedulers'):
        parts[0].base_lrs = [0.2, 0.2]
    chain = bo.ChainedScheduler(parts)
    with pytest.raises(ValueError, match='base_lrs of the ChainedScheduler'):
        parts[0].base_lrs = [0.2, 0.2]
    chain.base_lrs = [0.2, 0.3]
    assert chain.base_lrs == parts[1].base_lrs == [0.2, 0.3]


def test_what_is_shown_is_a_list_to_everybody():
    opt, _ = two_groups(LRS)
    bases = bo.StepLR(opt).base_lrs
    assert bases == LRS and isinstance(bases, list) and json.dumps(bases) == json.dumps(LRS)
    assert type(copy.deepcopy(bases)) is list and jax.tree.map(float, bases) == LRS
    np.testing.assert_array_equal(jnp.asarray(bases), jnp.asarray(LRS))
    np.testing.assert_array_equal(jax.jit(lambda: opt.lr.base_lrs)(), jnp.asarray(LRS))


def test_present_rates_are_assigned():
    opt, _ = two_groups(bo.ExponentialLR(0.5, 0.5))
    opt.lr.current_lrs.value = [0.1, 0.2]
    opt.lr.current_lrs.value[1] = 0.4
    assert opt.get_last_lr() == [0.1, 0.4]
    opt.lr.step()
    assert opt.get_last_lr() == [0.05, 0.2]
    with pytest.raises(ValueError, match='ExponentialLR needs learning rates in a list of 2'):
        opt.lr.current_lrs.value = [0.1]
    alone = bo.ExponentialLR(0.5, 0.5)
    alone.current_lrs.value = [0.2]
    alone.step()
    assert alone.get_last_lr() == [0.1]


# ---- each from its own base ---------------------------------------------------------------------


def test_a_sequence_of_different_bases(x64):
    """As in braintools' docstring: each goes from the base that it was given."""

    def make():
        parts = [
            bo.LinearLR(0.4, 0.25, 1.0, 3),
            bo.ExponentialLR(0.1, 0.5),
            bo.StepLR(step_size=2),
        ]
        return bo.SequentialLR(parts, [4, 6])

    want = [0.1, 0.2, 0.3, 0.4, 0.1, 0.05, 0.4, 0.4, 0.04]
    alone = make()
    np.testing.assert_allclose(alone.preview(9)[:, 0], want, rtol=1e-14)
    first, _ = two_groups(make())
    second, _ = two_groups([0.4, 0.4])
    second.add_scheduler(make())
    late, _ = two_groups(0.7)
    late.add_scheduler(make())
    third = bo.SGD(lr=make()).register_trainable_weights({'a': brainstate.ParamState(jnp.ones(()))})
    for t, lr in enumerate(want):
        if t == 5:
            third.add_param_group({'b': brainstate.ParamState(jnp.ones(()))})
        for opt in (first, second, late, third):
            assert opt.get_last_lr() == pytest.approx([lr] * len(opt.param_groups), rel=1e-14), t
            opt.lr.step()
        assert alone.get_last_lr() == pytest.approx([lr], rel=1e-14)
        alone.step()
    saved = make()
    saved.load_state_dict(alone.state_dict())
    assert saved.get_last_lr() == alone.get_last_lr()
    loop, _ = two_groups(make())

    def epoch(_):
        lr = jnp.asarray(loop.current_lr)
        loop.lr.step()
        return lr

    got = brainstate.transform.for_loop(epoch, jnp.arange(9))
    np.testing.assert_allclose(got, want, rtol=1e-12)
    begun = bo.SequentialLR([bo.ConstantLR(0.4, 1.0, 0), bo.ExponentialLR(0.1, 0.5)], [2], 3)
    assert bo.SGD(lr=begun).current_lr == begun.get_last_lr()[0] == 0.05


def test_a_group_with_its_own_rate_keeps_it_in_a_sequence():
    parts = [bo.ConstantLR(0.4, 0.5, 2), bo.ExponentialLR(0.1, 0.5)]
    opt = bo.SGD(lr=bo.SequentialLR(parts, [2]))
    opt.register_trainable_weights({'a': brainstate.ParamState(jnp.ones(()))})
    opt.add_param_group({'b': brainstate.ParamState(jnp.ones(()))}, lr=0.02)
    want = [[0.2, 0.01], [0.2, 0.01], [0.1, 0.02], [0.05, 0.01]]
    np.testing.assert_allclose(opt.lr.preview(4), want, rtol=1e-14)


def test_rates_of_groups_to_come_are_saved_and_loaded():
    def of_two(rates):
        opt = bo.SGD(lr=bo.StepLR(rates, step_size=2))
        return opt.register_trainable_weights({'w': ParamState(jnp.ones(2))})

    opt = of_two([0.3, 0.4])
    opt.load_state_dict(of_two([0.1, 0.2]).state_dict())
    assert opt.get_last_lr() == [0.1]
    opt.add_param_group({'v': ParamState(jnp.ones(2))})
    assert opt.get_last_lr() == [0.1, 0.2]


# ---- learning rates below zero, as torch has them -----------------------------------------------


def below_zero():
    """A cosine multiplies the distance to its minimum, below which another schedule went."""
    opt = bo.SGD(0.03).register_trainable_weights({'w': ParamState(jnp.zeros(1))})
    parts = [
        *(bo.CosineAnnealingLR(opt, T_max=13, eta_min=0.01), bo.ExponentialLR(opt, 0.98)),
        bo.LinearLR(opt, total_iters=9),
    ]
    return opt, bo.ChainedScheduler(parts)


def test_a_rate_below_zero_is_the_same_eagerly_in_jit_and_after_resuming(tmp_path):
    with jax.enable_x64(True):
        (opt, scheduler), (jitted, other) = below_zero(), below_zero()
        step, rates = brainstate.transform.jit(other.step), []
        for _ in range(26):
            scheduler.step()
            step()
            rates.append((opt.current_lr, jitted.current_lr))
        eager, compiled = np.transpose(rates)
        assert eager[-1] == pytest.approx(-0.0034339499681523477, rel=1e-12)  # torch 2.13.0
        np.testing.assert_allclose(compiled, eager, rtol=1e-12)
        opt.save(tmp_path / 'run')
        again, resumed = below_zero()
        again.load(tmp_path / 'run')
        for one in (scheduler, resumed):
            one.step()
        assert again.current_lr == opt.current_lr != eager[-1]
    with pytest.raises(ValueError, match=r'lr in \[0, inf\)'):
        opt.current_lr = -0.1


# ---- what could not be loaded is not saved ------------------------------------------------------


def test_a_rate_that_is_none_is_not_saved(tmp_path):
    opt, _ = two_groups(LRS)
    scheduler = bo.LambdaLR(opt, lambda epoch: jnp.where(epoch < 2, 1.0, jnp.nan))
    opt.save(tmp_path / 'run')
    good = (tmp_path / 'run').read_bytes()
    for _ in range(2):
        brainstate.transform.jit(scheduler.step)()
    for save in (
        lambda: opt.save(tmp_path / 'run'),
        opt.state_dict,
        lambda: bo.save(tmp_path / 'run', {'opt': opt}),
        lambda: bo.save(tmp_path / 'run', {'scheduler': scheduler}),
    ):
        with pytest.raises(ValueError, match='cannot be saved, since loading would refuse'):
            save()
    with pytest.raises(ValueError, match='group 0: SGD needs lr.*got lr=nan'):
        opt.state_dict()
    assert (tmp_path / 'run').read_bytes() == good
    scheduler.step(0)
    opt.save(tmp_path / 'run')
    opt.load(tmp_path / 'run')


def test_a_number_out_of_range_is_not_saved():
    opt, _ = two_groups(0.1, bo.Adam, grad_clip_norm=1.0)
    brainstate.transform.jit(lambda: setattr(opt, 'grad_clip_norm', jnp.asarray(-1.0)))()
    brainstate.transform.jit(lambda: setattr(opt, 'eps', jnp.asarray(-1.0)))()
    with pytest.raises(ValueError, match=r'(?s)grad_clip_norm=-1.*group 0: Adam needs eps'):
        opt.state_dict()
    opt.grad_clip_norm = opt.eps = 1.0
    opt.load_state_dict(opt.state_dict())
    rms, _ = two_groups(0.1, bo.RMSprop)
    brainstate.transform.jit(lambda: setattr(rms, 'alpha', jnp.asarray(1.5)))()
    with pytest.raises(ValueError, match='RMSprop needs alpha'):  # which validate knows
        rms.state_dict()


def test_a_subclass_written_for_torch():
    """Its constructor takes the optimizer and hands it on."""

    class Halves(bo.LRScheduler):
        def __init__(self, optimizer, every, last_epoch=-1):
            self.every = every
            super().__init__(optimizer, last_epoch)

        def get_lr(self):
            return [base * 0.5 ** (self.last_epoch.value // self.every) for base in self.base_lrs]

    opt = bo.SGD(0.4).register_trainable_weights({'w': ParamState(jnp.ones(2))})
    opt.add_param_group({'v': ParamState(jnp.ones(2))}, lr=0.8)
    for make in (lambda: Halves(opt, 2), lambda: Halves(optimizer=opt, every=2)):
        opt.current_lr = 0.4
        opt.param_groups[1]['lr'] = 0.8
        scheduler = make()
        seen = [opt.get_last_lr()]
        for _ in range(3):
            scheduler.step()
            seen.append(opt.get_last_lr())
        assert seen == [[0.4, 0.8], [0.4, 0.8], [0.2, 0.4], [0.2, 0.4]]
        opt._release(scheduler)
