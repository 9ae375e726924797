"""Schedulers without an optimizer, and what becomes of that once they drive one."""

import brainstate
import jax.numpy as jnp
import numpy as np
import pytest
from scheduler_cases import CASES, EVERY, two_groups

import braintools_optim as bo


@EVERY
def test_alone_it_shows_what_it_will_give(case):
    alone = case.make(0.3)
    shown, now = alone.preview(30), alone.get_last_lr()
    opt, _ = two_groups(alone)
    np.testing.assert_array_equal(alone.preview(30)[:, :1], shown)
    assert opt.get_last_lr()[:1] == now
    unattached = case.make(0.3)
    case.step(unattached, 0), case.step(alone, 0)
    assert unattached.get_last_lr() == opt.get_last_lr()[:1]


@pytest.mark.parametrize('restored', [False, True], ids=['stepped', 'restored'])
@pytest.mark.parametrize('case', CASES, ids=lambda case: case.id)
def test_what_it_has_come_to_alone_it_gives(case, restored):
    alone, twin = case.make(0.3), case.make(0.3)
    for t in range(20):
        case.step(alone, t), case.step(twin, t)
    if restored:
        saved, alone = alone.state_dict(), case.make(0.3)
        alone.load_state_dict(saved)
    opt, _ = two_groups(alone)
    for t in range(20, 27):
        assert opt.get_last_lr()[:1] == alone.get_last_lr()[:1] == twin.get_last_lr()
        case.step(alone, t), case.step(twin, t)


def test_a_plateau_that_was_met_alone_is_not_forgotten():
    old = bo.ReduceLROnPlateau(0.1, patience=0, factor=0.5)
    for _ in range(4):
        old.step(1.0)
    new = bo.ReduceLROnPlateau(0.1, patience=0, factor=0.5)
    new.load_state_dict(old.state_dict())
    opt = bo.SGD(new).register_trainable_weights({'w': brainstate.ParamState(jnp.ones(2))})
    assert opt.get_last_lr() == new.get_last_lr() == [0.1 / 2**3]  # the first epoch was the best
    new.step(1.0)
    assert opt.get_last_lr() == [0.1 / 2**4]


MADE = {
    'chain': lambda base: bo.ChainedScheduler(
        [bo.WarmupScheduler(base, warmup_epochs=4), bo.ReduceLROnPlateau(patience=1)]
    ),
    'sequence': lambda base: bo.SequentialLR(
        [bo.LinearLR(base), bo.MultiplicativeLR(lr_lambda=lambda t: 0.9), bo.SWALR(swa_lr=0.01)],
        milestones=[3, 5],
    ),
    'sequence in a chain': lambda base: bo.ChainedScheduler(
        [MADE['sequence'](base), bo.ExponentialLR(gamma=0.9)]
    ),
    'plateau': lambda base: bo.ReduceLROnPlateau(base, patience=1),
    'warm-up': lambda base: bo.WarmupScheduler(base, warmup_epochs=4),
}


def gone(scheduler, epochs):
    """Return it after so many epochs without an improvement."""
    for _ in range(epochs):
        scheduler.step(*([1.0] if scheduler._wants_metric() else []))
    return scheduler


@pytest.mark.parametrize('restored', [False, True], ids=['stepped', 'restored'])
@pytest.mark.parametrize('name', MADE)
def test_what_it_has_come_to_in_each_group_it_gives(name, restored):
    for epochs in range(8):
        opt, _ = two_groups(MADE[name]([0.1, 0.2]))
        gone(opt.lr, epochs)
        scheduler = MADE[name]([0.1, 0.2])
        if restored:
            scheduler.load_state_dict(opt.lr.state_dict())
        else:
            gone(scheduler, epochs)
        twin, _ = two_groups(scheduler)  # of which the second is added later
        for _ in range(3):
            assert twin.get_last_lr() == pytest.approx(opt.get_last_lr(), rel=1e-12)
            gone(opt.lr, 1), gone(twin.lr, 1)


def test_what_was_changed_after_it_was_given_is_taken_over_or_refused():
    opt = bo.SGD(bo.CosineAnnealingLR(0.1, T_max=10))
    gone(opt.lr, 3)
    opt.current_lr = 0.03
    alone = bo.CosineAnnealingLR(0.1, T_max=10)
    alone.load_state_dict(opt.lr.state_dict())
    twin = bo.SGD(alone)
    for _ in range(3):
        assert twin.current_lr == pytest.approx(opt.current_lr, rel=1e-12)
        gone(opt.lr, 1), gone(twin.lr, 1)

    opt = bo.SGD(MADE['chain'](0.1))
    opt.current_lr = 0.03
    alone = MADE['chain'](0.1)
    before = alone.state_dict()
    with pytest.raises(bo.IncompatibleCheckpoint, match=r'changed to \[0.03\] after .* first'):
        alone.load_state_dict(opt.lr.state_dict())
    assert alone.state_dict() == before
    bo.SGD(alone)
    alone.load_state_dict(opt.lr.state_dict())
    assert alone.get_last_lr() == [0.03]


def test_whether_momentum_cycles_is_open_until_there_is_an_optimizer():
    opt = bo.SGD(bo.CyclicLR(0.01, max_lr=0.1))  # without momentum
    gone(opt.lr, 3)
    alone = bo.CyclicLR(0.01, max_lr=0.1)
    alone.load_state_dict(opt.lr.state_dict())
    assert bo.SGD(alone).current_lr == opt.current_lr
    with pytest.raises(bo.IncompatibleCheckpoint, match="'cycle_momentum': False"):
        bo.SGD(bo.CyclicLR(0.01, max_lr=0.1), momentum=0.9).lr.load_state_dict(opt.lr.state_dict())


def test_a_rate_that_was_changed_alone_stays_changed():
    scheduler = bo.CosineAnnealingLR(0.1, T_max=10)
    scheduler.apply(lambda lr: lr / 2)
    assert bo.SGD(scheduler).current_lr == scheduler.get_last_lr()[0] == 0.05
