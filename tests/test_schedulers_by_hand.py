"""What becomes of a learning rate that was changed by hand, where torch has no such scheduler."""

import brainstate
import jax.numpy as jnp
import numpy as np
import pytest
from scheduler_cases import two_groups

import braintools_optim as bo

RISING = {
    'warmup': lambda **k: bo.WarmupScheduler(0.1, 5, **k),
    'cosine': lambda **k: bo.WarmupCosineSchedule(0.1, 5, 12, **k),
    'wsd': lambda **k: bo.WSDLR(0.1, 5, 2, 4, **k),
    'root': lambda **k: bo.InverseSqrtLR(0.1, 5, **k),
}
START = 0.05


def driven(scheduler):
    w = brainstate.ParamState(jnp.zeros(()))
    return bo.SGD(lr=scheduler).register_trainable_weights({'w': w})


def rates(opt, epochs, changes, jitted=False):
    """Return the rate of each epoch; ``changes`` has by which factor it changes before a step."""
    step = brainstate.transform.jit(opt.lr_scheduler.step) if jitted else opt.lr_scheduler.step
    found = [opt.current_lr]
    for epoch in range(epochs):
        if epoch in changes:
            opt.lr_apply(lambda lr, factor=changes[epoch]: lr * factor)
        step()
        found.append(opt.current_lr)
    return found


@pytest.mark.parametrize('jitted', [False, True])
@pytest.mark.parametrize('factor', [0.5, 0.01, 2.0])
@pytest.mark.parametrize('epoch', [0, 1, 4, 5])
@pytest.mark.parametrize('name', RISING)
def test_a_change_scales_a_warm_up(x64, name, epoch, factor, jitted):
    undisturbed = rates(driven(RISING[name](warmup_start_lr=START)), 12, {})
    changed = rates(driven(RISING[name](warmup_start_lr=START)), 12, {epoch: factor}, jitted)
    scaled = [lr if i <= epoch else lr * factor for i, lr in enumerate(undisturbed)]
    assert changed == pytest.approx(scaled, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize('jitted', [False, True])
@pytest.mark.parametrize('epoch', [0, 2, 7])
@pytest.mark.parametrize('name', RISING)
def test_a_start_that_is_assigned_moves_the_line_and_not_its_end(x64, name, epoch, jitted):
    opt, fresh = driven(RISING[name]()), driven(RISING[name](warmup_start_lr=START))
    rates(opt, epoch, {})
    opt.lr_scheduler.warmup_start_lr = START
    want = rates(fresh, 12, {})[epoch + 1 :]
    assert rates(opt, 12 - epoch, {}, jitted)[1:] == pytest.approx(want, rel=1e-12)


def test_a_jump_begins_anew_from_the_base_and_a_late_group_at_its_own():
    opt = driven(bo.WarmupScheduler(0.1, 5, warmup_start_lr=START))
    rates(opt, 3, {1: 0.5})
    assert opt.lr.warmup_scale == pytest.approx(0.5)
    opt.add_param_group({'late': brainstate.ParamState(jnp.zeros(()))}, lr=0.2)
    assert opt.get_last_lr() == pytest.approx([0.04, 0.4 * 0.05 + 0.6 * 0.2])
    opt.lr.step(1)
    assert opt.get_last_lr() == pytest.approx([0.06, 0.8 * 0.05 + 0.2 * 0.2])


def test_a_scheduler_without_an_optimizer_is_scaled_too():
    scheduler = bo.WarmupScheduler(0.1, 5, warmup_start_lr=START)
    scheduler.step()
    scheduler.apply(lambda lr: lr * 0.5)
    scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.035])


def test_a_group_that_rests_at_zero_warms_up_as_it_is_told():
    opt = driven(bo.WarmupScheduler(0.0, 4, warmup_start_lr=START))
    assert rates(opt, 4, {}) == pytest.approx([0.05, 0.0375, 0.025, 0.0125, 0.0])


@pytest.mark.parametrize('jitted', [False, True])
@pytest.mark.parametrize('epoch', [1, 3])
def test_a_decay_stays_at_its_bound_after_a_change(x64, epoch, jitted):
    def decay():
        return bo.ExponentialDecayLR(0.1, decay_steps=5, decay_rate=0.5, end_value=0.02)

    undisturbed = rates(driven(bo.ExponentialDecayLR(0.1, decay_steps=5, decay_rate=0.5)), 16, {})
    changed = rates(driven(decay()), 16, {epoch: 0.5}, jitted)
    halved = [lr if i <= epoch else lr * 0.5 for i, lr in enumerate(undisturbed)]
    assert changed == pytest.approx([max(lr, 0.02) for lr in halved], rel=1e-12)
    below = rates(driven(decay()), 16, {epoch: 0.1}, jitted)
    assert below[epoch + 1 :] == pytest.approx([undisturbed[epoch] * 0.1] * (16 - epoch))


def test_a_rate_that_a_schedule_made_negative_may_be_made_less_and_no_other_becomes_so():
    opt = driven(bo.LambdaLR(0.1, lambda epoch: 1.0 - 2.0 * epoch))
    opt.lr.step()
    assert opt.current_lr == -0.1
    opt.lr_apply(lambda lr: lr / 2)
    opt.param_groups[0]['lr'] *= 0.5
    opt.current_lr = opt.param_groups[0]['lr']
    assert opt.current_lr == -0.025
    with pytest.raises(ValueError, match='lr=-0.05'):
        opt.lr_apply(lambda lr: lr * 2)
    with pytest.raises(ValueError, match='lr=nan'):
        opt.current_lr = float('nan')
    opt.current_lr = 0.1
    with pytest.raises(ValueError, match=r'SGD needs lr in \[0, inf\), got lr=-0.025'):
        opt.current_lr = -0.025


@pytest.mark.parametrize('name', ['gamma', 'eta_min', 'max_lr'])
def test_a_list_that_was_assigned_reads_back(name):
    def made():
        a, b = ({k: brainstate.ParamState(jnp.ones(2))} for k in 'ab')
        opt = bo.AdamW(0.1).register_trainable_weights(a)
        opt.add_param_group(b, lr=0.01)
        return {
            'gamma': lambda: bo.ExponentialLR(opt, gamma=0.5),
            'eta_min': lambda: bo.CosineAnnealingLR(opt, T_max=5, eta_min=0.5),
            'max_lr': lambda: bo.OneCycleLR(opt, max_lr=0.5, total_steps=9),
        }[name]()

    scheduler, other = made(), made()
    assert getattr(scheduler, name) == 0.5
    setattr(scheduler, name, [0.5, 0.25])
    other.load_state_dict(scheduler.state_dict())
    for one in (scheduler, other):
        assert getattr(one, name) == [0.5, 0.25] and f'{name}=[0.5, 0.25]' in repr(one)
        with pytest.raises(TypeError):
            setattr(one, name, getattr(one, name) * 0.5)
        getattr(one, name)[1] = 0.5
        assert getattr(one, name) == 0.5


BOUNDED = [  # the decay, its bound, when the rate is changed and to what, and all seven rates
    (0.5, None, 1, 0.8, [0.25, 0.4, 0.2, 0.1, 0.05, 0.025, 0.0125]),
    (0.5, 0.2, 1, 0.8, [0.25, 0.4, 0.2, 0.2, 0.2, 0.2, 0.2]),
    (0.5, 0.2, 1, 3.2, [0.25, 1.6, 0.8, 0.4, 0.2, 0.2, 0.2]),
    (2.0, 1.5, 1, 0.1, [1.0, 0.2, 0.4, 0.8, 1.5, 1.5, 1.5]),
    (2.0, 2.1, 2, 0.3, [1.0, 2.0, 0.6, 1.2, 2.1, 2.1, 2.1]),
    (0.5, 0.2, 1, 0.1, [0.25, *[0.1] * 6]),  # beyond its bound it stays
    (2.0, 1.5, 1, 1.6, [1.0, *[1.6] * 6]),
    (0.5, 0.2, 3, 0.6, [0.25, 0.2, 0.2, 0.3, 0.2, 0.2, 0.2]),  # from its bound it goes on, too
    (2.0, 1.5, 3, 0.5, [1.0, 1.5, 1.5, 1.0, 1.5, 1.5, 1.5]),
]


@pytest.mark.parametrize('looped', [False, True])
@pytest.mark.parametrize(('rate', 'bound', 'at', 'value', 'want'), BOUNDED)
def test_a_bounded_decay_goes_on_from_what_was_assigned(rate, bound, at, value, want, looped, x64):
    opt, _ = two_groups([0.5, 0.5])
    decay = bo.ExponentialDecayLR(opt, decay_steps=1, decay_rate=rate, end_value=bound)

    def epoch(t):
        decay.step()
        lrs = opt.get_last_lr()
        opt.param_groups[1]['lr'] = jnp.where(t == at, value, lrs[1])
        return lrs[1]

    if looped:
        got = brainstate.transform.for_loop(epoch, jnp.arange(1, 8))
    else:
        got = [float(epoch(t)) for t in range(1, 8)]
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize('jitted', [False, True])
def test_another_decay_goes_on_from_the_present_rate_where_its_own_curve_is_bounded(jitted, x64):
    opt, _ = two_groups(0.5)
    decay = bo.ExponentialDecayLR(opt, decay_steps=1, decay_rate=0.9, end_value=0.2)
    for _ in range(5):
        decay.step()

    def change():
        decay.decay_rate = 0.8  # whose curve from 0.5 on is below 0.2 by now

    (brainstate.transform.jit(change) if jitted else change)()
    present = 0.5 * 0.9**5
    np.testing.assert_allclose(opt.get_last_lr(), [present] * 2, rtol=1e-12)
    np.testing.assert_allclose(decay.preview(4)[:, 0], [present, 0.8 * present, 0.2, 0.2], 1e-12)


def test_a_bounded_decay_that_nobody_changed_is_its_formula_to_the_last_bit(x64):
    options = {'decay_steps': 3, 'decay_rate': 0.9, 'end_value': 0.02}
    formula = bo.schedules.exponential_decay(0.1, **options)
    got = rates(driven(bo.ExponentialDecayLR(0.1, **options)), 60, {})
    assert got == [formula(t) for t in range(61)]


@pytest.mark.parametrize('jitted', [False, True])
def test_a_warm_up_that_was_changed_twice_begins_anew_from_its_base(jitted, x64):
    opt = driven(bo.WarmupCosineSchedule(0.1, 2, 10))
    rates(opt, 8, {3: 0.5, 6: 0.5}, jitted)
    assert opt.lr.base_lrs == [0.1] and 0.0 < opt.current_lr < 0.05
    opt.lr.step(0)
    fresh = driven(bo.WarmupCosineSchedule(0.1, 2, 10))
    np.testing.assert_allclose(rates(opt, 8, {}), rates(fresh, 8, {}), rtol=1e-12)


def test_a_warm_up_from_zero_that_was_changed_rises_to_where_it_started(x64):
    opt = driven(bo.ExponentialLR(0.1, 0.1))
    opt.lr.step()
    warmup = bo.WarmupScheduler(opt, warmup_epochs=5, warmup_start_lr=0.0)
    assert opt.current_lr == 0.0
    opt.current_lr = 0.5
    warmup.step()
    np.testing.assert_allclose(opt.current_lr, 0.5 + 0.01 / 5, rtol=1e-12)


def test_a_bounded_decay_is_bounded_where_it_starts_jumps_or_drives_nothing(x64):
    options = {'decay_steps': 1, 'decay_rate': 0.5, 'end_value': 0.2}
    free = bo.ExponentialDecayLR(0.5, **options)
    opt = driven(bo.ExponentialDecayLR(0.5, **options))
    low = driven(bo.ExponentialDecayLR(0.1, **options))  # from below its bound, as the formula says
    for scheduler in (free, opt.lr):
        scheduler.step(5)
        assert scheduler.get_last_lr() == [0.2]
    assert low.current_lr == bo.schedules.exponential_decay(0.1, **options)(0) == 0.2
    opt.add_param_group({'v': brainstate.ParamState(jnp.zeros(()))}, lr=0.3)
    assert opt.get_last_lr() == [0.2, 0.2]
