"""Every scheduler: torch's sequences, jit, loops, vmap, saving, and its formula in optax."""

import copy

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scheduler_cases import (
    CASES,
    EVERY,
    FUNCTIONS,
    GOLDEN,
    LRS,
    RECORDED,
    applied,
    attached,
    two_groups,
    walk,
)

import braintools_optim as bo

WAYS = ('constructor', 'optimizer', 'add_scheduler')


def test_every_scheduler_has_a_row():
    public = {
        name
        for name in bo.__all__
        if isinstance(getattr(bo, name), type) and issubclass(getattr(bo, name), bo.LRScheduler)
    }
    assert public - {'LRScheduler'} == {case.id for case in CASES}


# ---- torch --------------------------------------------------------------------------------------


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


# ---- jit, loops, vmap ---------------------------------------------------------------------------


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


# ---- saving -------------------------------------------------------------------------------------


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


# ---- optax --------------------------------------------------------------------------------------


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
