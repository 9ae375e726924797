"""The schedulers: torch's sequences, jit, attaching, saving, and what they refuse."""

import copy
import sys
from pathlib import Path

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from interrupts import interrupted, nth
from scheduler_cases import CASES, FUNCTIONS, GOLDEN, LRS, RECORDED, applied, two_groups

import braintools_optim as bo

EVERY = pytest.mark.parametrize('case', CASES, ids=lambda c: c.id)
WAYS = ('constructor', 'optimizer', 'add_scheduler')


def test_every_scheduler_has_a_row():
    public = {
        name
        for name in bo.__all__
        if isinstance(getattr(bo, name), type) and issubclass(getattr(bo, name), bo.LRScheduler)
    }
    assert public - {'LRScheduler'} == {case.id for case in CASES}


# ---- torch -------------------------------------------------------------------------------------


def arguments(row):
    kwargs = dict(row['kwargs'])
    for name in ('lr_lambda', 'scale_fn'):
        if name in kwargs:
            given = kwargs[name]
            kwargs[name] = (
                FUNCTIONS[given] if isinstance(given, str) else [FUNCTIONS[n] for n in given]
            )
    return kwargs


def build(row, way):
    """Build a recorded row's optimizer and scheduler, attached in one of three ways."""
    given = {k: v for k, v in row['optimizer_kwargs'].items() if k != 'lr'}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    cls, optimizer = getattr(bo, row['scheduler']), getattr(bo, row['optimizer'])
    kwargs = arguments(row)
    children = [(getattr(bo, c['scheduler']), arguments(c)) for c in row.get('children', ())]

    def first(cls):
        return [] if way == 'add_scheduler' or cls in (bo.CyclicLR, bo.OneCycleLR) else [LRS]

    if way == 'optimizer':
        opt, params = two_groups(LRS, optimizer, **given)
        if children:
            made = [c(opt, **k) for c, k in children]
            return opt, params, cls(opt, made, **kwargs) if kwargs else cls(made)
        return opt, params, cls(opt, **kwargs)
    if children:
        made = [c(*first(c), **k) for c, k in children]
        scheduler = cls(made, **kwargs)
    else:
        scheduler = cls(*first(cls), **kwargs)
    if way == 'constructor':
        opt, params = two_groups(scheduler, optimizer, **given)
    else:
        opt, params = two_groups(LRS, optimizer, **given)
        opt.add_scheduler(scheduler)
    return opt, params, scheduler


def ways(row):
    """Return the ways that mean the same for a row.

    Others start where a CyclicLR does that was attached before them, or a OneCycleLR at any time.
    """
    children = [c['scheduler'] for c in row.get('children', ())]
    moved = 'OneCycleLR' in children or children[:1] == ['CyclicLR']
    return ['optimizer'] if moved else WAYS


@pytest.mark.parametrize(
    ('name', 'way'), [(name, way) for name, row in RECORDED.items() for way in ways(row)]
)
def test_torch_sequence(name, way, x64):
    row = RECORDED[name]
    opt, params, scheduler = build(row, way)
    plain = row['optimizer'] == 'SGD' and 'momentum' not in row['optimizer_kwargs']
    assert opt.lr is scheduler
    reported, real, momenta = [], [], []

    def snapshot():
        assert scheduler.get_last_lr() == opt.get_last_lr() == scheduler.current_lrs.value
        reported.append(opt.get_last_lr())
        if plain and way == 'constructor':
            real.append(applied(opt, params))
        if name + '/momentum' in GOLDEN:
            groups = opt.param_groups
            momenta.append(
                [g['betas'][0] if row['optimizer'] == 'Adam' else g['momentum'] for g in groups]
            )

    snapshot()
    for i in range(row['steps']):
        for change in row.get('changes', ()):
            if change['epoch'] == i:
                group = opt.param_groups[change['group']]
                group['lr'] = group['lr'] * change['factor']
        if 'metrics' in row:
            scheduler.step(row['metrics'][i])
        elif 'step_to' in row and row['step_to'][i] is not None:
            scheduler.step(row['step_to'][i])
        else:
            scheduler.step()
        snapshot()
    want = GOLDEN[name + '/lr']
    # OneCycleLR's last linear phase cancels in torch: 1e-16 of the maximum is all it is good for.
    atol = 3e-16 * np.max(row['kwargs'].get('max_lr', 0.0))
    np.testing.assert_allclose(reported, want, rtol=1e-12, atol=atol)
    if real:
        np.testing.assert_allclose(real, want, rtol=1e-12, atol=atol)
    if momenta:
        np.testing.assert_allclose(momenta, GOLDEN[name + '/momentum'], rtol=1e-12)


@pytest.mark.parametrize('traced', [False, True])
def test_every_number_of_a_momentum_cycle_may_be_a_list(traced):
    makers = [
        lambda i: bo.OneCycleLR(max_lr=0.3, total_steps=8, pct_start=[0.3, 0.6][i]),
        lambda i: bo.CyclicLR(0.1, 0.3, 2, mode='exp_range', gamma=[0.9, 0.5][i]),
    ]
    for make in makers:
        opt, _ = two_groups(make(slice(None)), momentum=0.9)
        alone = [two_groups(make(i), momentum=0.9)[0] for i in (0, 1)]
        step = brainstate.transform.jit(opt.lr.step) if traced else opt.lr.step
        for _ in range(5):
            for i, group in enumerate(opt.param_groups):
                want = alone[i].param_groups[i]
                found = [float(group['lr']), group['momentum']]
                assert found == pytest.approx([float(want['lr']), want['momentum']], rel=1e-6)
            step()
            for other in alone:
                other.lr.step()


@pytest.mark.parametrize('composite', ['ChainedScheduler', 'SequentialLR'])
def test_a_composite_that_fails_leaves_its_parts_as_they_were(composite, monkeypatch):
    opt, _ = two_groups(0.1)
    parts = [bo.LinearLR(opt, 0.5, 1.0, 3), bo.ExponentialLR(opt, 0.9)]
    before = opt.get_last_lr(), opt.schedulers, opt.lr

    def fail(*_):
        raise RuntimeError('stopped')

    monkeypatch.setattr(getattr(bo, composite), '_take_over', fail)
    with pytest.raises(RuntimeError, match='stopped'):
        getattr(bo, composite)(parts, *([[2]] if composite == 'SequentialLR' else []))
    assert (opt.get_last_lr(), opt.schedulers, opt.lr) == before


def test_a_scheduler_without_arguments_is_attached_as_in_torch():
    class Halving(bo.LRScheduler):
        def __init__(self):
            super().__init__()

        def affine(self, epoch, group):
            return 0.0, 0.5**epoch

    opt, _ = two_groups(0.2)
    scheduler = Halving(opt)
    scheduler.step()
    assert opt.get_last_lr() == [0.1, 0.1]


def test_a_cycle_keeps_its_own_base_in_a_sequence(x64):
    cycle = {'base_lr': 0.05, 'max_lr': 0.3, 'step_size_up': 2}
    want = [0.1, 0.2, 0.3, 0.4, 0.05, 0.175, 0.3, 0.175]
    opt, _ = two_groups(
        bo.SequentialLR([bo.LinearLR(0.4, 0.25, 1.0, 3), bo.CyclicLR(**cycle)], [4])
    )
    np.testing.assert_allclose(opt.lr.preview(8)[:, 0], want, rtol=1e-14)
    opt, _ = two_groups([0.4, 0.4])
    opt.add_scheduler(bo.SequentialLR([bo.LinearLR(start_factor=0.25, total_iters=3),
                                       bo.CyclicLR(**cycle)], [4]))  # fmt: skip
    assert opt.lr.base_lrs == [0.4, 0.4]
    np.testing.assert_allclose(opt.lr.preview(8), np.transpose([want, want]), rtol=1e-14)
    only = bo.SequentialLR(
        [bo.LinearLR(start_factor=0.25, total_iters=3), bo.CyclicLR(**cycle)], [4]
    )
    assert bo.SGD(lr=only).current_lr == 0.25 * 0.05


def test_a_function_of_the_epoch_divides_in_full_precision_inside_jit(x64):
    opt, _ = two_groups(bo.LambdaLR(0.4, lr_lambda=lambda epoch: 1 / (2 + epoch)))
    for _ in range(2):
        brainstate.transform.jit(lambda: opt.lr.step())()
    assert opt.lr.last_epoch.value.dtype == jnp.int32
    np.testing.assert_allclose(opt.current_lr, 0.1, rtol=1e-15)


def test_a_sequence_in_a_sequence_runs_on_time(x64):
    """As the closed form says; torch starts the inner one an epoch early."""
    inner = bo.SequentialLR(
        [bo.ConstantLR(factor=0.5, total_iters=3), bo.CosineAnnealingWarmRestarts(T_0=4)], [3]
    )
    outer = bo.SequentialLR([bo.LinearLR(0.4, total_iters=6), inner, bo.ExponentialLR()], [6, 15])
    two_groups(outer)
    s = bo.schedules
    restarts = s.cosine_restarts(0.4, 4)
    nested = s.sequential([s.constant(0.4, 0.5, 3), restarts], [3])
    want = s.sequential([s.linear(0.4, total_iters=6), nested, s.exponential(0.4)], [6, 15])
    got = outer.preview(30)
    np.testing.assert_allclose(got[:, 0], [want(t) for t in range(30)], rtol=1e-14)
    assert (got[:, 0] == got[:, 1]).all()


# ---- jit, loops, vmap --------------------------------------------------------------------------


def attached(case, lrs=LRS, cls=bo.SGD):
    """Return the row's scheduler on an optimizer of two groups."""
    opt, params = two_groups(lrs, cls, **case.optimizer)
    return opt, params, case.make(opt)


def walk(case, scheduler, opt, steps):
    """Return the learning rates of so many epochs, from the present one on."""
    lrs = [opt.get_last_lr()]
    for t in range(steps - 1):
        case.step(scheduler, t)
        lrs.append(opt.get_last_lr())
    return np.array(lrs)


def grads():
    return {'a': -jnp.ones(()), 'b': -jnp.ones(())}


@EVERY
def test_one_trace_in_jit(case, x64):
    eager = attached(case)
    want = walk(case, eager[2], eager[0], case.steps)
    opt, params, scheduler = attached(case)
    traces = []

    @brainstate.transform.jit
    def train(t):
        traces.append(1)
        opt.step(grads())
        case.step(scheduler, t)

    moved = []
    for t in range(case.steps):
        before = [float(p.value) for p in params]
        assert scheduler.last_epoch.value == t
        train(jnp.asarray(t))
        moved.append([float(p.value) - x for p, x in zip(params, before, strict=True)])
    assert len(traces) == 1
    np.testing.assert_allclose(moved, want, rtol=1e-9, atol=1e-12)


@EVERY
def test_an_epoch_loop_in_for_loop(case, x64):
    eager = attached(case)
    want = walk(case, eager[2], eager[0], 40)
    opt, params, scheduler = attached(case)

    def epoch(t):
        lrs = jnp.stack([jnp.asarray(lr) for lr in opt.get_last_lr()])
        opt.step(grads())
        case.step(scheduler, t)
        return lrs

    got = brainstate.transform.for_loop(epoch, jnp.arange(40))
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose([p.value for p in params], want.sum(0), rtol=1e-9)
    # and on from there in Python
    case.step(scheduler, 40)
    case.step(eager[2], 39), case.step(eager[2], 40)
    np.testing.assert_allclose(opt.get_last_lr(), eager[0].get_last_lr(), rtol=1e-12, atol=1e-15)
    assert scheduler.last_epoch.value == 41


@EVERY
def test_vmap_over_the_base(case, x64):
    bases = jnp.array([0.5, 0.1, 0.02])

    def run(base):
        scheduler = case.make(base)
        opt = bo.SGD(lr=scheduler)
        param = brainstate.ParamState(jnp.zeros(()))
        opt.register_trainable_weights({'a': param})
        lrs = []
        for t in range(12):
            lrs.append(jnp.asarray(opt.current_lr, float))
            opt.step({'a': -jnp.ones(())})
            case.step(scheduler, t)
        return jnp.stack(lrs), param.value

    got, ends = brainstate.transform.vmap(run)(bases)
    for i, base in enumerate(bases.tolist()):
        scheduler = case.make(base)
        opt, _ = two_groups(scheduler)
        want = walk(case, scheduler, opt, 12)[:, 0]
        np.testing.assert_allclose(got[i], want, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(ends[i], want.sum(), rtol=1e-12)


def test_single_precision_follows_the_double():
    """Without x64 an eager schedule keeps its digits, and a jitted one float32's."""
    opt, _ = two_groups(LRS)
    scheduler = bo.CosineAnnealingLR(opt, T_max=30, eta_min=0.004)
    want = [bo.schedules.cosine(0.5, 30, 0.004)(t) for t in range(25)]
    got = []
    step = brainstate.transform.jit(scheduler.step)
    for t in range(25):
        got.append(opt.current_lr)
        scheduler.step() if t < 10 else step()
    np.testing.assert_allclose(got[:11], want[:11], rtol=1e-14)
    np.testing.assert_allclose(got, want, rtol=1e-6)


# ---- saving ------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize('epoch', [0, 1, 23, 41])
def test_restoring_at_any_epoch(case, epoch, x64):
    opt, _, scheduler = attached(case)
    for t in range(epoch):
        case.step(scheduler, t)
    opt.param_groups[1]['lr'] *= 1.5
    saved, alone = opt.state_dict(), scheduler.state_dict()
    want = walk(case, scheduler, opt, 30)

    again, _, fresh = attached(case)
    again.load_state_dict(saved)
    assert fresh.last_epoch.value == epoch
    np.testing.assert_array_equal(walk(case, fresh, again, 30), want)

    other, _, third = attached(case)
    third.load_state_dict(alone)
    np.testing.assert_array_equal(walk(case, third, other, 30), want)


@EVERY
def test_a_deep_copy_goes_its_own_way(case):
    opt, _, scheduler = attached(case)
    twin = copy.deepcopy(opt)
    want = walk(case, scheduler, opt, 20)
    assert twin.get_last_lr() == want[0].tolist() and twin.lr is not scheduler
    np.testing.assert_array_equal(walk(case, twin.lr, twin, 20), want)


def test_states_that_do_not_fit_are_refused_whole():
    opt, _, scheduler = attached(next(c for c in CASES if c.id == 'StepLR'))
    saved = scheduler.state_dict()
    other = bo.StepLR(two_groups(LRS)[0], step_size=8, gamma=0.5)
    plateau = bo.ReduceLROnPlateau(two_groups(LRS)[0])
    for target, bad, words in [
        (other, saved, ['step_size', '7', '8']),
        (scheduler, {**saved, 'scheduler': 'ExponentialLR'}, ['ExponentialLR', 'StepLR']),
        (scheduler, {**saved, 'last_epoch': -1}, ['last_epoch', '-1']),
        (scheduler, {**saved, 'current_lrs': [0.1]}, ['current_lrs', '2 numbers']),
        (scheduler, {**saved, 'hyper': {'gamma': [float('nan')] * 2}}, ['gamma', 'nan']),
        (scheduler, {**saved, 'hyper': {}}, ['hyper', 'gamma']),
        (plateau, {**plateau.state_dict(), 'num_bad_epochs': -1}, ['num_bad_epochs', '-1']),
        (plateau, {**plateau.state_dict(), 'best': None}, ['best', 'None']),
        (scheduler, 3, ['dict', 'int']),
    ]:
        before = [s.value for s in target._states()], target.get_last_lr()
        with pytest.raises(bo.IncompatibleCheckpoint) as error:
            target.load_state_dict(bad)
        assert all(w in str(error.value) for w in words), str(error.value)
        after = [s.value for s in target._states()], target.get_last_lr()
        assert jax.tree.all(jax.tree.map(np.array_equal, before, after))


# ---- optax -------------------------------------------------------------------------------------


@pytest.mark.parametrize('case', [c for c in CASES if c.formula], ids=lambda c: c.id)
def test_the_formula_in_optax(case, x64):
    """optax.adam(schedule) is Adam(lr=Scheduler), stepped per step."""
    opt = bo.Adam(lr=case.make(0.3))
    if case.id in ('CyclicLR', 'OneCycleLR'):
        opt = bo.Adam(lr=case.make(0.3, cycle_momentum=False))
    param = brainstate.ParamState(jnp.array([1.0, -2.0]))
    opt.register_trainable_weights({'w': param})
    tx = optax.adam(case.formula(0.3))
    value, state = jnp.array([1.0, -2.0]), tx.init(jnp.zeros(2))

    @jax.jit
    def step(value, state, grad):
        updates, state = tx.update(grad, state, value)
        return optax.apply_updates(value, updates), state

    for t in range(40):
        grad = jnp.array([1.0, 0.3 * t])
        value, state = step(value, state, grad)
        opt.step({'w': grad})
        opt.lr.step()
    np.testing.assert_allclose(param.value, value, rtol=1e-9)


# ---- attaching, groups, several ----------------------------------------------------------------


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
    scheduler.gamma = 0.25  # takes effect in the next step: 0.25**2 of the base
    epoch()
    assert len(traces) == 1 and scheduler.gamma == 0.25
    assert opt.current_lr == pytest.approx(0.1 * 0.25**2, rel=1e-6)
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


def test_momentum_is_left_where_there_is_none():
    opt, _ = two_groups(0.1)
    bo.OneCycleLR(opt, 0.5, 10).step()
    assert opt.momentum == 0.0
    with pytest.raises(ValueError, match='neither betas nor a momentum'):
        bo.CyclicLR(two_groups(0.1)[0], 0.1, 0.5, cycle_momentum=True)
    adam, _ = two_groups(0.1, bo.Adam)
    bo.OneCycleLR(adam, 0.5, 10, cycle_momentum=False).step()
    assert adam.betas == (0.9, 0.999)


def param():
    return brainstate.ParamState(jnp.ones(2))


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


# ---- bad input ---------------------------------------------------------------------------------

BAD = {
    'T_max': (lambda: bo.CosineAnnealingLR(0.1, T_max=0), ['CosineAnnealingLR', 'T_max', '0']),
    'gamma': (lambda: bo.ExponentialLR(0.1, gamma=-1), ['ExponentialLR', 'gamma', '-1']),
    'gamma nan': (lambda: bo.StepLR(0.1, gamma=float('nan')), ['StepLR', 'gamma', 'nan']),
    'step_size': (lambda: bo.StepLR(0.1, 2.5), ['StepLR', 'step_size', '2.5']),
    'milestones': (
        lambda: bo.MultiStepLR(0.1, [30, 10]),
        ['MultiStepLR', 'milestones', '[30, 10]'],
    ),
    'sequence': (
        lambda: bo.SequentialLR([bo.StepLR(0.1), bo.StepLR(), bo.StepLR()], [9, 5]),
        ['SequentialLR', 'milestones', '[9, 5]'],
    ),
    'sequence length': (
        lambda: bo.SequentialLR([bo.StepLR(0.1)], [9, 5]),
        ['SequentialLR'],
    ),
    'sequence of numbers': (lambda: bo.SequentialLR([0.1, 0.2], [9]), ['SequentialLR', '0.1']),
    'empty chain': (lambda: bo.ChainedScheduler([]), ['ChainedScheduler', 'empty']),
    'chain of bases': (
        lambda: bo.SGD(lr=bo.ChainedScheduler([bo.StepLR(0.1), bo.StepLR(0.2)])),
        ['ChainedScheduler', '0.1', '0.2'],
    ),
    'one twice': (lambda: bo.ChainedScheduler([bo.StepLR(0.1)] * 2), ['ChainedScheduler', 'twice']),
    'both': (
        lambda: bo.OneCycleLR(0.1, total_steps=10, epochs=3, steps_per_epoch=4),
        ['OneCycleLR', 'total_steps=10', 'epochs=3'],
    ),
    'neither': (lambda: bo.OneCycleLR(0.1), ['OneCycleLR', 'total_steps=None']),
    'total_steps': (lambda: bo.OneCycleLR(0.1, 0), ['OneCycleLR', 'total_steps', '0']),
    'pct_start': (lambda: bo.OneCycleLR(0.1, 9, pct_start=1.2), ['OneCycleLR', 'pct_start', '1.2']),
    'strategy': (lambda: bo.SWALR(0.1, anneal_strategy='x'), ['SWALR', 'anneal_strategy', "'x'"]),
    'mode': (lambda: bo.CyclicLR(0.1, mode='x'), ['CyclicLR', 'mode', "'x'"]),
    'plateau mode': (lambda: bo.ReduceLROnPlateau(0.1, 'x'), ['ReduceLROnPlateau', 'mode', "'x'"]),
    'plateau factor': (lambda: bo.ReduceLROnPlateau(factor=1.0), ['factor', '1.0', '[0, 1)']),
    'plateau patience': (lambda: bo.ReduceLROnPlateau(patience=-1), ['patience', '-1']),
    'metric': (lambda: bo.ReduceLROnPlateau(0.1).step('x'), ['metric', 'x']),
    'lambda': (lambda: bo.LambdaLR(0.1, 0.5), ['LambdaLR', 'lr_lambda', '0.5']),
    'no lambda': (lambda: bo.MultiplicativeLR(0.1), ['MultiplicativeLR', 'lr_lambda', 'None']),
    'piecewise': (
        lambda: bo.PiecewiseConstantSchedule(0.1, [1, 2], [0.1]),
        ['boundaries', 'values'],
    ),  # fmt: skip
    'epoch': (lambda: bo.StepLR(0.1).step(-1), ['StepLR', 'epoch', '-1']),
    'epoch nan': (lambda: bo.StepLR(0.1).step(float('nan')), ['StepLR', 'epoch', 'nan']),
    'last_epoch': (lambda: bo.StepLR(0.1, last_epoch='x'), ['StepLR', 'last_epoch', 'x']),
    'base': (lambda: bo.StepLR('x'), ['StepLR', 'base_lr', "'x'"]),
    'bases': (lambda: bo.StepLR([0.1, -0.1]), ['StepLR', 'base_lr', '-0.1']),
    'lists': (
        lambda: bo.CosineAnnealingLR([0.1, 0.2], eta_min=[0.0, 0.0, 0.0]),
        ['CosineAnnealingLR', 'base_lr', '2', '3'],
    ),
    'bases for groups': (
        lambda: two_groups(0.1)[0].add_scheduler(bo.StepLR([0.1, 0.2, 0.3])),
        ['StepLR', '3 values for base_lr', '2 parameter groups'],
    ),
    'max_lr for groups': (
        lambda: bo.CyclicLR(two_groups(0.1)[0], 0.1, [0.2]),
        ['CyclicLR', '1 values for max_lr'],
    ),  # fmt: skip
    'lambdas for groups': (
        lambda: bo.LambdaLR(two_groups(0.1)[0], [FUNCTIONS['wave']] * 3),
        ['LambdaLR', '3 values for lr_lambda'],
    ),
    'groups that did not come': (
        lambda: bo.SGD(lr=bo.StepLR([0.1, 0.2])).lr.step(),
        ['StepLR', '2 values for base_lr'],
    ),  # fmt: skip
    'name': (lambda: bo.ParamScheduler(bo.SGD(), 'betas', abs), ['SGD', 'betas', 'momentum']),
    'no schedule': (lambda: bo.ParamScheduler(bo.SGD(), 'momentum', 'x'), ['momentum', "'x'"]),
    'unknown argument': (lambda: bo.StepLR(0.1, size=3), ['size']),
    'too many': (lambda: bo.ExponentialLR(bo.SGD(), 0.9, 0, 0), ['ExponentialLR', '2 arguments']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_arguments(name):
    call, words = BAD[name]
    with pytest.raises((TypeError, ValueError)) as error:
        call()
    assert all(word in str(error.value) for word in words), str(error.value)


def test_more_steps_than_planned():
    opt, _ = two_groups(0.1)
    scheduler = bo.OneCycleLR(opt, 0.5, 3)
    for _ in range(3):
        scheduler.step()
    before = opt.get_last_lr()
    with pytest.raises(ValueError, match=r'OneCycleLR was made for total_steps=3.*step 4'):
        scheduler.step()
    assert opt.get_last_lr() == before and scheduler.last_epoch.value == 3


def test_a_metric_that_is_nan_is_no_improvement():
    scheduler = bo.ReduceLROnPlateau(0.1, patience=0)
    scheduler.step(float('nan'))
    assert scheduler.get_last_lr() == [pytest.approx(0.01)]


def test_a_refused_step_changes_nothing():
    """A schedule that gives a rate which is no number is named, and all States stay."""
    opt, _ = two_groups(0.1)
    scheduler = bo.LambdaLR(opt, lambda t: 1.0 if t < 2 else np.nan)
    scheduler.step()
    before = scheduler.state_dict(), opt.get_last_lr()
    with pytest.raises(ValueError, match='needs lr in .*got lr=nan'):
        scheduler.step()
    assert (scheduler.state_dict(), opt.get_last_lr()) == before


def test_an_interrupt_leaves_all_old_or_all_new():
    """Wherever it comes, the learning rates and the epoch belong together."""
    for n in range(1, 2000):
        opt, _ = two_groups(LRS)
        scheduler = bo.ExponentialLR(opt, 0.5)
        scheduler.step()
        line = interrupted(scheduler.step, nth(n))
        epoch = int(scheduler.last_epoch.value)
        assert opt.get_last_lr() == [lr * 0.5**epoch for lr in LRS], line
        if line is None:
            assert epoch == 2 and n > 20
            return
    raise AssertionError('the step never ended')


class Axes:
    """What plot needs of matplotlib's axes."""

    def __init__(self):
        self.lines, self.words = [], {}

    def plot(self, x, y, label=''):
        self.lines.append((list(x), list(y), label))

    def set(self, **words):
        self.words.update(words)

    def legend(self):
        self.words['legend'] = True


def test_plot(monkeypatch):
    opt, _ = two_groups(LRS)
    scheduler = bo.ExponentialLR(opt, 0.5)
    scheduler.step()
    axes = scheduler.plot(3, ax=Axes())
    assert axes.lines == [
        ([1, 2, 3], [0.25, 0.125, 0.0625], 'group 0'),
        ([1, 2, 3], [0.01, 0.005, 0.0025], 'group 1'),
    ]
    assert axes.words['ylabel'] == 'learning rate' and axes.words['legend']
    nothing = scheduler.plot(0, ax=Axes())
    assert nothing.lines == []
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(ImportError, match='needs matplotlib'):
        scheduler.plot(3)


def test_every_plot_of_the_docs_is_of_one_scheduler():
    """The script that draws them knows every class; it needs matplotlib, so it is only read."""
    script = (Path(__file__).parent.parent / 'docs' / 'plot_schedulers.py').read_text()
    missing = [case.id for case in CASES if f'bo.{case.id}(' not in script]
    assert not missing
