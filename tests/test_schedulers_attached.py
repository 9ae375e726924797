"""Schedulers and optimizers: ways to attach them, groups, several at once, numbers that change."""

import copy

import brainstate
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scheduler_cases import CASES, EVERY, LRS, applied, attached, two_groups, walk

import braintools_optim as bo

# ---- attaching, groups, several -----------------------------------------------------------------


def test_three_ways_have_one_meaning():
    for case in CASES:
        by_constructor = case.make(0.3)
        first, _ = two_groups(by_constructor)
        second, _, by_optimizer = attached(case, 0.3)
        third, _ = two_groups(0.3)
        third.add_scheduler(added := case.make())
        assert first.lr is by_constructor and second.lr is by_optimizer and third.lr is added
        assert first.schedulers == [] and second.schedulers == [by_optimizer]
        runs = [
            walk(case, s, opt, 30)
            for s, opt in ((by_constructor, first), (by_optimizer, second), (added, third))
        ]
        np.testing.assert_array_equal(runs[0], runs[1], case.id)
        np.testing.assert_array_equal(runs[0], runs[2], case.id)


def test_lists_give_each_group_its_own():
    opt, _ = two_groups(bo.CosineAnnealingLR([0.5, 0.1], T_max=10, eta_min=[0.05, 0.0]))
    assert opt.lr.base_lrs == [0.5, 0.1] and opt.lr.eta_min == [0.05, 0.0]
    for _ in range(10):
        opt.lr.step()
    assert opt.get_last_lr() == pytest.approx([0.05, 0.0], abs=1e-15)


@EVERY
def test_a_group_joins_at_the_present_epoch(case):
    opt, _ = two_groups(0.5)
    scheduler = case.make(opt)
    for t in range(13):
        case.step(scheduler, t)
    opt.add_param_group({'c': brainstate.ParamState(jnp.zeros(()))})
    lrs = opt.get_last_lr()
    if not case.metric and case.id != 'MultiplicativeLR':  # these act on the present rate only
        assert lrs[2] == pytest.approx(lrs[0], rel=1e-14)
    case.step(scheduler, 13)
    assert len(scheduler.get_last_lr()) == 3
    if not case.metric and case.id != 'MultiplicativeLR':
        assert opt.get_last_lr()[2] == pytest.approx(opt.get_last_lr()[0], rel=1e-14)


def test_several_schedulers_compose_as_a_chain():
    opt, _ = two_groups(LRS)
    warm, decay = bo.LinearLR(opt, 0.1, total_iters=15), bo.ExponentialLR(opt, 0.96)
    chained, _ = two_groups(LRS)
    chain = bo.ChainedScheduler([bo.LinearLR(chained, 0.1, total_iters=15),
                                 bo.ExponentialLR(chained, 0.96)])  # fmt: skip
    assert opt.schedulers == [warm, decay] and chained.schedulers == [chain]
    assert opt.lr is warm and chained.lr is chain
    for _ in range(40):
        assert opt.get_last_lr() == chained.get_last_lr()
        warm.step(), decay.step()
        chain.step()
    saved = opt.state_dict()
    assert [s['scheduler'] for s in saved['schedulers']] == ['LinearLR', 'ExponentialLR']


def test_one_scheduler_is_for_one_optimizer():
    scheduler = bo.StepLR(0.1)
    bo.SGD(lr=scheduler)
    with pytest.raises(ValueError, match='already drives an optimizer'):
        bo.SGD(lr=scheduler)
    with pytest.raises(ValueError, match='already drives an optimizer'):
        bo.Adam().add_scheduler(scheduler)


def test_a_second_scheduler_with_another_base_is_refused():
    opt, _ = two_groups(bo.StepLR(0.1))
    before = opt.get_last_lr()
    with pytest.raises(ValueError, match=r'ExponentialLR starts from base_lr=\[0.2.*leave base_lr'):
        opt.add_scheduler(bo.ExponentialLR(0.2))
    assert opt.schedulers == [] and opt.get_last_lr() == before
    opt.add_scheduler(bo.ExponentialLR(0.1, 0.5))
    opt.schedulers[0].step()
    assert opt.current_lr == pytest.approx(0.05)


def test_the_report_is_what_the_next_step_applies():
    opt, params = two_groups(bo.WarmupScheduler(0.1, warmup_epochs=4))
    assert opt.current_lr == 0.0 and opt.lr.get_last_lr() == [0.0, 0.0]
    assert applied(opt, params) == [0.0, 0.0]
    opt.lr.step()
    assert applied(opt, params) == pytest.approx([0.025, 0.025], rel=1e-6)
    opt.current_lr = 0.07
    assert opt.lr.get_last_lr() == [0.07, 0.025]


def test_preview_touches_nothing():
    for case in CASES:
        opt, _, scheduler = attached(case)
        for t in range(5):
            case.step(scheduler, t)
        before = scheduler.state_dict()
        shown = scheduler.preview(20)
        assert scheduler.state_dict() == before
        assert shown.shape == (20, 2) and shown.dtype == np.float64
        if not case.metric:
            np.testing.assert_array_equal(shown, walk(case, scheduler, opt, 20), case.id)


def test_live_numbers_of_a_scheduler():
    opt, _ = two_groups(0.1)
    scheduler = bo.ExponentialLR(opt, gamma=0.5)
    traces = []

    @brainstate.transform.jit
    def epoch():
        traces.append(1)
        scheduler.step()

    epoch()
    scheduler.gamma = 0.25  # takes effect in the next step, on the present rate
    assert opt.current_lr == pytest.approx(scheduler.get_lr()[0]) == pytest.approx(0.05)
    epoch()
    assert len(traces) == 1 and scheduler.gamma == 0.25
    assert opt.current_lr == pytest.approx(0.05 * 0.25, rel=1e-6)
    scheduler.step(4)  # that of a schedule which had it from the beginning
    assert opt.current_lr == pytest.approx(0.1 * 0.25**4, rel=1e-6)
    with pytest.raises(ValueError, match='gamma'):
        scheduler.gamma = -1.0
    with pytest.raises(AttributeError, match='step_size of StepLR is fixed'):
        bo.StepLR(0.1).step_size = 3


def test_any_number_can_be_scheduled(x64):
    opt, _ = two_groups([0.1, 0.2], bo.AdamW, grad_clip_norm=1.0)
    decay = bo.ParamScheduler(opt, 'weight_decay', bo.schedules.linear(0.1, 1.0, 0.0, 10))
    betas = bo.ParamScheduler(
        opt, 'betas', [(bo.schedules.cosine(0.9, 10, 0.8), 0.99), (0.5, lambda t: 0.9)]
    )
    clip = bo.ParamScheduler(opt, 'grad_clip_norm', lambda t: 1.0 + t)
    assert opt.schedulers == [decay, betas, clip] and isinstance(opt.lr, bo.ConstantLR)
    for scheduler in (decay, betas, clip):
        scheduler.step()
    assert opt.param_groups[0]['weight_decay'] == pytest.approx(0.09)
    assert opt.param_groups[0]['betas'] == (bo.schedules.cosine(0.9, 10, 0.8)(1), 0.99)
    assert opt.param_groups[1]['betas'] == (0.5, 0.9) and opt.grad_clip_norm == 2.0
    assert opt.get_last_lr() == [0.1, 0.2] and betas.preview(3).shape == (3, 2, 2)
    saved = opt.state_dict()
    again, _ = two_groups([0.1, 0.2], bo.AdamW, grad_clip_norm=1.0)
    fresh = bo.ParamScheduler(again, 'weight_decay', bo.schedules.linear(0.1, 1.0, 0.0, 10))
    with pytest.raises(bo.IncompatibleCheckpoint, match='ParamScheduler'):
        again.load_state_dict(saved)
    fresh.step(4)
    assert again.weight_decay == pytest.approx(0.06)
    traces = []

    @brainstate.transform.jit
    def epoch():
        traces.append(1)
        decay.step()

    for _ in range(5):
        epoch()
    assert len(traces) == 1 and decay.last_epoch.value == 6
    assert opt.param_groups[1]['weight_decay'] == pytest.approx(0.04)


def param():
    return brainstate.ParamState(jnp.ones(2))


def test_momentum_is_left_where_there_is_none():
    opt, _ = two_groups(0.1)
    bo.OneCycleLR(opt, 0.5, 10).step()
    assert opt.momentum == 0.0
    with pytest.raises(ValueError, match='neither betas nor a momentum'):
        bo.CyclicLR(two_groups(0.1)[0], 0.1, 0.5, cycle_momentum=True)
    adam, _ = two_groups(0.1, bo.Adam)
    bo.OneCycleLR(adam, 0.5, 10, cycle_momentum=False).step()
    assert adam.betas == (0.9, 0.999)


@pytest.mark.parametrize(
    'make',
    [
        lambda opt: bo.OneCycleLR(opt, 1.0, total_steps=9),
        lambda opt: bo.CyclicLR(opt, 0.1, 1.0, step_size_up=4),
    ],
)
def test_a_group_without_momentum_keeps_none_beside_others(make):
    opt, twin = (bo.SGD(0.1, momentum=0.9) for _ in range(2))
    for each in (opt, twin):
        each.register_trainable_weights({'w': param()})
    opt.add_param_group({'v': param()}, momentum=0.0)
    schedulers = make(opt), make(twin)
    seen = set()
    for i in range(6):
        assert opt.param_groups[0]['momentum'] == twin.momentum
        assert opt.param_groups[1]['momentum'] == 0.0
        assert all(g['momentum'] == twin.momentum for g in opt.param_groups[2:])
        assert opt.get_last_lr() == [twin.current_lr] * (2 + (i > 2))
        seen.add(twin.momentum)
        opt.step({'w': jnp.ones(2), 'v': jnp.ones(2)})
        if i == 2:
            opt.add_param_group({'u': param()}, momentum=0.5)
        for scheduler in schedulers:
            scheduler.step()
    assert len(seen) > 4


def test_the_momentum_of_a_group_that_has_none_cannot_be_cycled_on_purpose():
    opt = bo.SGD(0.1, momentum=0.9).register_trainable_weights({'w': param()})
    opt.add_param_group({'v': param()}, momentum=0.0)
    with pytest.raises(ValueError, match='momentum of group 1.*leave it out'):
        bo.OneCycleLR(opt, 1.0, 9, cycle_momentum=True)
    opt = bo.SGD(0.1, momentum=0.9).register_trainable_weights({'w': param()})
    bo.OneCycleLR(opt, 1.0, 9, cycle_momentum=True)
    before = opt.state_dict()
    with pytest.raises(ValueError, match='momentum of group 1'):
        opt.add_param_group({'v': param()}, momentum=0.0)
    assert repr(opt.state_dict()) == repr(before)


def test_a_schedule_may_leave_groups_alone():
    opt = bo.AdamW(0.1, weight_decay=0.1)
    opt.register_trainable_weights({'w': param()})
    opt.add_param_group({'v': param()}, weight_decay=0.0)
    decay = bo.ParamScheduler(opt, 'weight_decay', [lambda t: 0.2 / (1 + t), None])
    assert [g['weight_decay'] for g in opt.param_groups] == [0.2, 0.0]
    opt.param_groups[1]['weight_decay'] = 0.3
    decay.step()
    assert [g['weight_decay'] for g in opt.param_groups] == [0.1, 0.3]
    assert decay.value == [0.1, None]
    np.testing.assert_array_equal(decay.preview(2), [[0.1, np.nan], [0.2 / 3, np.nan]])
    with pytest.raises(ValueError, match='attach it once all groups are there'):
        opt.add_param_group({'u': param()})
    for nothing in (None, [None]):
        with pytest.raises(TypeError, match='needs a function of the epoch for weight_decay'):
            bo.ParamScheduler('weight_decay', nothing)


# ---- bad input ----------------------------------------------------------------------------------


def test_a_group_that_joins_changes_no_other():
    opt = bo.AdamW(0.1).register_trainable_weights({'w': param()})
    bo.ParamScheduler(opt, 'weight_decay', lambda epoch: 0.2)
    opt.param_groups[0]['weight_decay'] = 0.7
    opt.add_param_group({'v': param()})
    assert [g['weight_decay'] for g in opt.param_groups] == [0.7, 0.2]


def test_a_preview_of_tuples_where_a_group_keeps_its_own():
    opt = bo.Adam(0.1).register_trainable_weights({'w': param()})
    opt.add_param_group({'v': param()})
    scheduler = bo.ParamScheduler(opt, 'betas', [(lambda epoch: 0.5 + 0.1 * epoch, 0.99), None])
    seen = [[[0.5, 0.99], [np.nan] * 2], [[0.6, 0.99], [np.nan] * 2]]
    np.testing.assert_allclose(scheduler.preview(2), seen)


@pytest.mark.parametrize('run', [lambda f: f(), lambda f: brainstate.transform.jit(f)()])
def test_a_change_where_the_schedule_gives_zero(run):
    scheduler = bo.ConstantLR(0.1, factor=0.0, total_iters=1)

    def changed():
        scheduler.apply(lambda lr: 0.05)
        scheduler.step()
        return scheduler.get_lr()[0]

    assert float(run(changed)) == pytest.approx(0.1)


class OfOne(bo.OptaxOptimizer):
    def __init__(self, lr=1, **more):
        super().__init__(lr=lr, **more)


def over_adam(**options):
    return bo.Lookahead(bo.Adam(0.2), **options)


def over_a_chain(**options):
    return bo.Lookahead(optax.sgd(0.1), **options)


@pytest.mark.parametrize(
    'cls', [bo.Lars, bo.RMSprop, bo.Mars, bo.Adam, OfOne, over_adam, over_a_chain]
)
def test_without_a_base_all_three_ways_begin_with_the_default_of_the_class(cls):
    def made(way):
        opt, scheduler = cls(), bo.StepLR(step_size=1, gamma=0.5)
        if way == 'lr':
            opt = cls(lr=scheduler)
        elif way == 'optimizer':
            scheduler = bo.StepLR(opt, step_size=1, gamma=0.5)
        else:
            opt.add_scheduler(scheduler)
        seen = [opt.current_lr, *scheduler.base_lrs, opt.base_lr]
        scheduler.step()
        return [*seen, opt.current_lr, getattr(opt, 'lr_ref', None)]

    first, *others = map(made, ('lr', 'optimizer', 'add_scheduler'))
    assert first[:4] == [cls().current_lr] * 3 + [cls().current_lr / 2]
    assert all(other == first for other in others)
    parts = bo.ChainedScheduler([bo.StepLR(step_size=1), bo.ConstantLR(factor=1.0)])
    assert cls(lr=parts).current_lr == cls().current_lr
    assert cls(lr=bo.StepLR(0.3, step_size=1)).current_lr == 0.3


def test_a_schedule_that_carries_nothing_on_has_an_assigned_number_from_the_beginning():
    opt = bo.SGD(0.1).register_trainable_weights({'w': param()})
    scheduler = bo.CyclicLR(opt, 0.1, max_lr=0.5, step_size_up=4)
    scheduler.step(), scheduler.step()
    scheduler.max_lr = 0.9
    assert opt.current_lr == pytest.approx(0.3)
    assert scheduler.get_lr()[0] == pytest.approx(0.5)  # by the formula, as torch's
    scheduler.step()
    assert opt.current_lr == pytest.approx(
        bo.CyclicLR(0.1, max_lr=0.9, step_size_up=4).preview(4)[3, 0]
    )


RECURSIONS = {  # torch's, from the last learning rate to that of epoch t
    'ExponentialLR': (
        {'gamma': 0.9},
        {3: ('gamma', 0.5), 7: ('gamma', 0.95)},
        lambda lr, t, s: lr * s,
    ),
    'ExponentialDecayLR': (  # the same rule, one epoch at a time
        {'decay_steps': 1, 'decay_rate': 0.9},
        {3: ('decay_rate', 0.5)},
        lambda lr, t, s: lr * s,
    ),
    'StepLR': (
        {'step_size': 2, 'gamma': 0.5},
        {3: ('gamma', 0.9)},
        lambda lr, t, s: lr if t % 2 else lr * s,
    ),
    'CosineAnnealingLR': (
        {'T_max': 9, 'eta_min': 0.01},
        {3: ('eta_min', 0.05)},
        lambda lr, t, s: (
            s + (lr - s) * (1 + np.cos(np.pi * t / 9)) / (1 + np.cos(np.pi * (t - 1) / 9))
        ),
    ),
}


# ---- last_epoch is a part of the State that has the numbers --------------------------------------


@pytest.mark.parametrize('how', ['eager', 'jit', 'loop'])
def test_the_epoch_may_be_put_anywhere(how):
    """What is written there is where the next step goes on, and nothing else has changed."""
    opt = bo.SGD(0.5).register_trainable_weights({'w': param()})
    scheduler = bo.CosineAnnealingLR(opt, T_max=9)
    scheduler.eta_min = 0.05

    def jump():
        scheduler.last_epoch.value = scheduler.last_epoch.value * 0 + 4
        scheduler.step(scheduler.last_epoch.value + 1)

    if how == 'loop':
        brainstate.transform.for_loop(lambda _: jump(), np.arange(2))
    else:
        (brainstate.transform.jit(jump) if how == 'jit' else jump)()
    assert int(scheduler.last_epoch.value) == 5 and scheduler.eta_min == pytest.approx(0.05)
    assert opt.current_lr == pytest.approx(bo.schedules.cosine(0.5, 9, 0.05)(5), rel=1e-6)
    scheduler.step()
    assert int(scheduler.last_epoch.value) == 6
    assert opt.current_lr == pytest.approx(bo.schedules.cosine(0.5, 9, 0.05)(6), rel=1e-6)


def test_a_state_that_is_assigned_gives_its_value():
    scheduler, other = bo.StepLR(0.1, step_size=2), bo.StepLR(0.1, step_size=2)
    other.step(3)
    held = scheduler.last_epoch
    scheduler.last_epoch = other.last_epoch
    other.step()
    assert held is scheduler.last_epoch and held.value == 3 and other.last_epoch.value == 4
    scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.1 * 0.1**2], rel=1e-12)
    assert isinstance(held, bo.OptimState) and repr(held) == 'EpochState(value=np.int32(4))'


def test_who_watches_the_epoch_is_told_of_steps():
    scheduler, seen = bo.StepLR(0.1, step_size=2), []
    scheduler.last_epoch.register_hook('write_after', lambda context: seen.append(context.value))
    for _ in range(2):
        scheduler.step()
    assert [epoch for _, epoch in seen] == [1, 2]
    twin = copy.deepcopy(scheduler)
    twin.step()
    assert len(seen) == 2


def test_a_copy_has_an_epoch_of_its_own():
    scheduler = bo.StepLR(0.1, step_size=2)
    scheduler.step(3)
    twin = copy.deepcopy(scheduler)
    twin.step()
    assert (scheduler.last_epoch.value, twin.last_epoch.value) == (3, 4)
    twin.last_epoch.value = np.int32(8)
    twin.step()
    assert (scheduler._progress().epoch, twin._progress().epoch) == (3, 9)
    alone = scheduler.last_epoch.duplicate()
    alone.value = 7
    assert type(alone) is bo.OptimState and scheduler.last_epoch.value == 3


@pytest.mark.parametrize('jitted', [False, True], ids=['eager', 'jit'])
@pytest.mark.parametrize('name', RECURSIONS)
def test_numbers_that_are_assigned_go_on_from_the_present_rate(name, jitted, x64):
    kwargs, changes, after = RECURSIONS[name]
    opt = bo.SGD(0.5).register_trainable_weights({'w': param()})
    scheduler = getattr(bo, name)(opt, **kwargs)
    step = brainstate.transform.jit(scheduler.step) if jitted else scheduler.step
    lr, value = 0.5, next(v for k, v in kwargs.items() if isinstance(v, float))
    for t in range(1, 9):
        if t in changes:
            number, value = changes[t]
            setattr(scheduler, number, value)
        step()
        lr = after(lr, t, value)
        assert float(opt.current_lr) == pytest.approx(lr, rel=1e-12), t
