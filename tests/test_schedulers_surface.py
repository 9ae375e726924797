"""What schedulers show and let be assigned: torch's and braintools' attributes, and mistakes."""

import copy
import pickle

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate import ParamState
from scheduler_cases import two_groups

import braintools_optim as bo

# ---- attributes of torch and braintools ---------------------------------------------------------


@pytest.mark.parametrize('mult', [1, 2, 3])
def test_where_a_warm_restart_is(mult):
    """T_cur and T_i are what torch's step counts."""
    opt, _ = two_groups(bo.CosineAnnealingWarmRestarts(0.1, T_0=3, T_mult=mult))
    restarts, cur, length = opt.lr, 0, 3
    for _ in range(30):
        assert (restarts.T_cur, restarts.T_i) == (cur, length)
        assert (int(restarts.T_cur), restarts.T_i.value) == (cur, length)
        restarts.step()
        cur += 1
        if cur >= length:
            cur, length = cur % length, length * mult
    restarts.step(7.5)
    assert (restarts.T_cur, restarts.T_i) == {1: (1.5, 3), 2: (4.5, 6), 3: (4.5, 9)}[mult]
    with pytest.raises(AttributeError, match='T_cur'):
        restarts.T_cur = 0
    with pytest.raises(AttributeError, match=r'step\(epoch\) goes there'):
        restarts.T_i.value = 5
    restarts.T_i.value = int(restarts.T_i)  # as programs for braintools restore it
    saved = restarts.state_dict()
    assert (saved['T_cur'], saved['T_i']) == (restarts.T_cur, restarts.T_i)
    assert restarts.differences(saved) == []
    assert 'T_cur and T_i must be' in restarts.differences({**saved, 'T_cur': 99})[0]
    restarts.step(4)
    traced = brainstate.transform.jit(lambda: (restarts.T_cur.value, restarts.T_i.value))()
    assert traced == (1, {1: 3, 2: 6, 3: 9}[mult])


def test_which_of_a_sequence_runs():
    parts = [bo.ConstantLR(0.1), bo.ExponentialLR(), bo.StepLR()]
    opt, _ = two_groups(bo.SequentialLR(parts, [2, 4]))
    assert opt.lr.n_schedulers == 3
    found = []
    for _ in range(6):
        found.append(opt.lr.current_scheduler_idx)
        saved = opt.lr.state_dict()
        assert saved['current_scheduler_idx'] == found[-1] and opt.lr.differences(saved) == []
        assert opt.lr.differences({**saved, 'current_scheduler_idx': 7}) == [
            f'SequentialLR: current_scheduler_idx must be {found[-1]}, got 7'
        ]
        assert brainstate.transform.jit(lambda: opt.lr.current_scheduler_idx)() == found[-1]
        opt.lr.step()
    assert found == [0, 0, 1, 1, 2, 2]


PARTS = {
    'one': lambda opt: bo.StepLR(opt, step_size=2),
    'sequence': lambda opt: bo.SequentialLR(
        opt, [bo.LinearLR(opt, total_iters=3), bo.ExponentialLR(opt, 0.5)], [3]
    ),
    'plateau': lambda opt: bo.ReduceLROnPlateau(opt, patience=0, factor=0.5),
}


@pytest.mark.parametrize('make', PARTS.values(), ids=PARTS)
def test_a_copied_scheduler_drives_a_copied_optimizer(make):
    opt, _ = two_groups(0.1)
    scheduler = make(opt)
    metric = [1.0] if isinstance(scheduler, bo.ReduceLROnPlateau) else []
    scheduler.step(*metric)
    other, again = copy.deepcopy((scheduler, opt))
    assert other.optimizer is again is not opt and again.lr is other
    expected = scheduler.preview(4).tolist()
    before = opt.get_last_lr()
    for _ in range(3):
        other.step(*metric)
    assert opt.get_last_lr() == before != again.get_last_lr()
    assert scheduler.preview(4).tolist() == expected and scheduler.last_epoch.value == 1
    assert other.last_epoch.value == 4
    for old, new in zip(
        getattr(scheduler, 'schedulers', []), getattr(other, 'schedulers', []), strict=True
    ):
        assert copy.deepcopy(old) is not new and new.optimizer is again


def test_copies_of_a_scheduler_that_drives_nothing():
    parts = [bo.ExponentialLR(0.1, 0.5), bo.StepLR(step_size=1)]
    for scheduler in (bo.StepLR(0.1, step_size=2), bo.SequentialLR(parts, [2])):
        scheduler.step()
        other = copy.deepcopy(scheduler)
        other.step()
        assert (scheduler.last_epoch.value, other.last_epoch.value) == (1, 2)
        with pytest.raises(TypeError, match='copy.deepcopy gives an independent one'):
            copy.copy(scheduler)
        with pytest.raises(TypeError, match=r'pickle scheduler.state_dict\(\)'):
            pickle.dumps(scheduler)


def test_what_a_subclass_of_a_plateau_shows_is_not_applied():
    class Shown(bo.ReduceLROnPlateau):
        def get_lr(self):
            return [7.0, 7.0]

    opt, _ = two_groups(Shown([0.1, 0.2], patience=0, factor=0.5))
    assert opt.get_last_lr() == [0.1, 0.2] and opt.lr.get_lr() == [7.0, 7.0]
    for metric in (1.0, 2.0):
        opt.lr.step(metric)
    assert opt.get_last_lr() == [0.05, 0.1]


def test_a_cycle_has_its_own_base_for_a_group_to_come():
    opt = bo.SGD(lr=bo.CyclicLR([0.1, 0.2], max_lr=1.0, step_size_up=4))
    opt.register_trainable_weights({'w': ParamState(jnp.ones(2))})
    opt.add_param_group({'v': ParamState(jnp.ones(2))}, lr=0.7)
    assert opt.get_last_lr() == opt.lr.base_lrs == [0.1, 0.2]


def test_a_plateau_has_one_threshold():
    with pytest.raises(TypeError, match=r'ReduceLROnPlateau needs one number for threshold.*0.2'):
        bo.ReduceLROnPlateau(0.1, threshold=[0.1, 0.2])
    plateau = bo.ReduceLROnPlateau([0.1, 0.2], threshold=0.1)
    with pytest.raises(TypeError, match='one number for threshold'):
        plateau.threshold = [0.1, 0.2]
    plateau.threshold = 0.3
    assert plateau.threshold == 0.3


def test_what_a_plateau_remembers():
    opt, _ = two_groups(bo.ReduceLROnPlateau(0.1, patience=1, cooldown=2, min_lr=0.02))
    plateau = opt.lr
    assert plateau.best == plateau.mode_worse == float('inf') and plateau.min_lrs == [0.02, 0.02]
    plateau.step(metrics=2.0)  # torch's keyword
    for metric in (jnp.bfloat16(2.0), np.float16(2.0)):
        plateau.step(metric)
    assert float(plateau.best) == plateau.best.value == 2.0 and f'{plateau.best:.1f}' == '2.0'
    assert plateau.in_cooldown and plateau.cooldown_counter == 2
    assert plateau.num_bad_epochs.value == 0 and list(range(plateau.cooldown_counter)) == [0, 1]
    plateau.cooldown_counter, plateau.num_bad_epochs, plateau.best = 0, 1, 0.5
    assert not plateau.in_cooldown and opt.get_last_lr() == [0.02, 0.02]
    plateau.best.value = 0.25
    saved = plateau.state_dict()
    assert (saved['best'], saved['num_bad_epochs'], saved['cooldown_counter']) == (0.25, 1, 0)
    plateau.best = plateau.mode_worse
    plateau.step(9.0)
    assert plateau.best == 9.0
    plateau.min_lrs = [0.0, 0.01]
    plateau.min_lrs[1] = 0.015
    assert plateau.min_lrs == [0.0, 0.015]
    for name, bad in [('best', float('nan')), ('best', 'x'), ('num_bad_epochs', -1)]:
        with pytest.raises((TypeError, ValueError), match=f'ReduceLROnPlateau needs.*{name}'):
            setattr(plateau, name, bad)
    assert plateau.best == 9.0


def test_cycles_show_what_they_were_given():
    cyclic, _ = two_groups(bo.CyclicLR(0.1, max_lr=[0.2, 0.3], step_size_up=5))
    assert cyclic.lr.max_lrs == [0.2, 0.3] and cyclic.lr.step_size_down == 5
    cyclic.lr.max_lrs = [0.4, 0.5]
    cyclic.lr.max_lr[1] = 0.6
    assert cyclic.lr.max_lrs == cyclic.lr.max_lr == [0.4, 0.6]
    assert bo.CyclicLR(0.1, step_size_down=7).step_size_down == 7
    one, _ = two_groups(bo.OneCycleLR(0.5, 10, div_factor=5.0))
    assert one.lr.max_lrs == [0.5, 0.5] and one.lr.div_factor == 5.0 and one.lr.max_lr == 0.5
    assert one.lr.min_lrs == pytest.approx([0.1 / 1e4] * 2)


# ---- epochs -------------------------------------------------------------------------------------


def test_fractions_of_an_epoch_in_a_loop():
    want, _ = two_groups(bo.CosineAnnealingWarmRestarts(0.1))
    opt, _ = two_groups(bo.CosineAnnealingWarmRestarts(0.1))

    def body(i):
        opt.lr.step(i / 4)
        return jnp.asarray(opt.current_lr)

    for loop in (brainstate.transform.for_loop, brainstate.transform.jit(
        lambda f, xs: brainstate.transform.for_loop(f, xs), static_argnums=0
    )):  # fmt: skip
        with pytest.raises(TypeError, match='WarmRestarts came to a fraction.*last_epoch.*int32'):
            loop(body, jnp.arange(6))
    opt.lr.last_epoch.value = float(opt.lr.last_epoch.value)  # what the message says
    got = brainstate.transform.for_loop(body, jnp.arange(6))
    for i in range(6):
        want.lr.step(i / 4)
        np.testing.assert_allclose(got[i], want.current_lr, rtol=1e-6)
    brainstate.transform.for_loop(lambda i: opt.lr.step(i), jnp.arange(6))  # and whole ones
    assert opt.lr.last_epoch.value == 5
    jitted, _ = two_groups(bo.CosineAnnealingWarmRestarts(0.1))
    brainstate.transform.jit(lambda e: jitted.lr.step(e))(1.25)
    assert jitted.current_lr == pytest.approx(want.current_lr)


@pytest.mark.parametrize('make', [
    lambda: bo.StepLR(0.1),
    lambda: bo.OneCycleLR(0.1, 10),
    lambda: bo.SequentialLR([bo.StepLR(0.1), bo.StepLR()], [3]),
])  # fmt: skip
@pytest.mark.parametrize('epoch', [[1], 'x', jnp.ones(1), 1j, object(), -1, 2**31, float('inf')])
def test_epochs_that_are_none(make, epoch):
    with pytest.raises((TypeError, ValueError), match=r'LR needs .*epoch'):
        make().step(epoch)
    with pytest.raises(TypeError, match='needs a real scalar for epoch'):
        jax.jit(make().step)(jnp.ones(2))


@pytest.mark.parametrize('n', ['a', 2.0, -1, None, True])
def test_previews_of_no_number(n):
    for scheduler in (bo.StepLR(0.1), bo.ParamScheduler(bo.SGD(), 'momentum', 0.0)):
        for show in (scheduler.preview, scheduler.plot):
            with pytest.raises((TypeError, ValueError), match=r'needs an integer >= 0 for n, got'):
                show(n)


@pytest.mark.parametrize('attached', [False, True])
def test_more_steps_than_a_part_was_planned_for(attached):
    """As torch: a OneCycleLR raises in a composite, too, and nothing has moved."""
    chain = bo.ChainedScheduler([bo.ExponentialLR(gamma=0.9), bo.OneCycleLR(0.5, 3)])
    sequence = bo.SequentialLR([bo.ExponentialLR(0.1, 0.9), bo.OneCycleLR(0.5, 3)], [2])
    nested = bo.SequentialLR(
        [bo.ConstantLR(0.1), bo.ChainedScheduler([bo.OneCycleLR(0.5, 3)])], [2]
    )
    for scheduler, steps in ((chain, 3), (sequence, 5), (nested, 5)):
        if attached:
            two_groups(scheduler)
        for _ in range(steps):
            scheduler.step()
        before = scheduler.state_dict()
        for step in (scheduler.step, lambda s=scheduler: s.step(99)):
            with pytest.raises(ValueError, match='OneCycleLR was made for total_steps=3'):
                step()
        assert scheduler.state_dict() == before
        scheduler.step(1)


# ---- assigning what is not there ----------------------------------------------------------------


@pytest.mark.parametrize(
    ('make', 'name', 'says'),
    [
        (lambda: bo.StepLR(0.1), 'gama', "StepLR has no 'gama' to assign. Did you mean 'gamma'"),
        (lambda: bo.StepLR(0.1), 'factor', "no number 'factor' to assign; it has base_lrs, gamma"),
        (lambda: bo.StepLR(0.1), 'T_max', "StepLR has no 'T_max' to assign"),
        (lambda: bo.StepLR(0.1), 'step_sise', "Did you mean 'step_size'"),
        (lambda: bo.OneCycleLR(0.1, 10), 'div_factor', 'div_factor of OneCycleLR is fixed'),
        (lambda: bo.OneCycleLR(0.1, 10), 'epochs', 'epochs of OneCycleLR is fixed'),
        (lambda: bo.CyclicLR(0.1), 'step_size_down', 'step_size_down of CyclicLR is fixed'),
        (lambda: bo.LambdaLR(0.1, float), 'lr_lambda', 'lr_lambda of LambdaLR is fixed'),
        (lambda: bo.ChainedScheduler([bo.StepLR()]), 'schedulers', 'schedulers of Chained.*fixed'),
        (
            lambda: bo.ParamScheduler(bo.SGD(), 'momentum', 0.0),
            'schedule',
            'schedule of ParamScheduler is fixed',
        ),
        (
            lambda: bo.ParamScheduler(bo.SGD(), 'momentum', 0.0),
            'last_epoch',
            r'step\(epoch=0.5\) goes there',
        ),
        (
            lambda: bo.ParamScheduler(bo.SGD(), 'momentum', 0.0),
            'momentum',
            "no number 'momentum' to assign; it has none",
        ),
    ],
)
def test_assigning_what_a_scheduler_has_not(make, name, says):
    scheduler = make()
    before = scheduler.state_dict()
    with pytest.raises(AttributeError, match=says):
        setattr(scheduler, name, 0.5)
    assert scheduler.state_dict() == before
    scheduler.note = 'my own'
    assert scheduler.note == 'my own'


def test_entries_of_what_is_fixed():
    for scheduler, name in [
        (bo.MultiStepLR(0.1, [2, 4]), 'milestones'),
        (bo.PiecewiseConstantSchedule(0.1, [2], [0.1, 0.2]), 'values'),
    ]:
        before = list(getattr(scheduler, name))
        with pytest.raises(AttributeError, match=f'{name} of .* is fixed'):
            getattr(scheduler, name)[0] = 3
        assert getattr(scheduler, name) == before


class Noisy(bo.ExponentialLR):
    """A scheduler of a user, with attributes of any name."""

    def __init__(self, base_lr, factr):
        self.factr = factr
        super().__init__(base_lr, 0.5)
        self.log, self.gama, self.threshold = [], 1, 2
        self.hook = self.log.append

    def step(self, epoch=None):
        self.stepp = self.factr = len(self.log)
        self.log.append(self.factr)
        super().step(epoch)


def test_a_user_scheduler_has_attributes_of_any_name():
    opt, _ = two_groups(Noisy(0.1, 3))
    opt.lr.step()
    opt.lr.momentum = opt.lr.epochs = 1
    assert (opt.lr.factr, opt.lr.stepp, opt.lr.log) == (0, 0, [0])


# ---- copies, and constructors that fail ---------------------------------------------------------


def test_a_copy_shares_nothing_that_changes():
    parts = [Noisy(0.1, 3), bo.LambdaLR(lr_lambda=abs)]
    chain = bo.ChainedScheduler(parts)
    chain.first = parts[0]
    opt, _ = two_groups(chain)
    twin = copy.deepcopy(opt)
    mine, theirs = opt.lr.schedulers, twin.lr.schedulers
    theirs[0].log.append('x')
    twin.lr.first.log.append('y')
    assert mine[0].log == [] and theirs[0].log == ['x', 'y'] and twin.lr.first is theirs[0]
    assert theirs[1].lr_lambdas == [abs] and theirs[0].optimizer is twin.lr.optimizer is twin
    cycle, _ = two_groups(bo.CyclicLR(0.1, scale_fn=(scale := lambda x: 1.0)))
    assert copy.deepcopy(cycle).lr.scale_fn is scale


class FailsWhenAttached(bo.StepLR):
    def __init__(self, optimizer_to_drive):
        super().__init__(0.1, 3)
        self.attach_optimizer(optimizer_to_drive)
        raise RuntimeError('stopped')


class FailsWhenComposed(bo.ChainedScheduler):
    def __init__(self, parts):
        super().__init__(parts)
        raise RuntimeError('stopped')


def test_a_constructor_that_fails_leaves_nothing_attached():
    opt, _ = two_groups([0.4, 0.3])
    parts = [bo.LinearLR(opt, 0.5), bo.ExponentialLR(opt, 0.9)]
    before = opt.state_dict(), opt.schedulers, opt.lr
    with pytest.raises(RuntimeError, match='stopped'):
        FailsWhenComposed(parts)
    assert (opt.state_dict(), opt.schedulers, opt.lr) == before
    parts[0].step()  # it drives the optimizer still
    free, _ = two_groups([0.4, 0.3])
    before = free.state_dict(), free.schedulers, free.lr
    with pytest.raises(RuntimeError, match='stopped'):
        FailsWhenAttached(optimizer_to_drive=free)
    assert (free.state_dict(), free.schedulers, free.lr) == before


def test_what_a_scheduler_was_built_with_is_fixed():
    steps = bo.MultiStepLR(0.1, milestones=[2, 3])
    factors = bo.LambdaLR(0.1, lr_lambda=lambda epoch: 1.0)
    sequence = bo.SequentialLR([steps, factors], milestones=[5])
    assert repr(sequence).count('milestones=[5]') == 1 and 'milestones=[2, 3]' in repr(sequence)
    cycle = bo.CyclicLR(0.1, max_lr=0.5, cycle_momentum=False)
    number = bo.ParamScheduler('weight_decay', lambda epoch: 0.1)
    for scheduler, name in (
        *((steps, 'milestones'), (sequence, 'milestones')),
        *((cycle, 'cycle_momentum'), (number, 'name')),
    ):
        before = getattr(scheduler, name)
        with pytest.raises(AttributeError, match=f'{name} of .* is fixed at construction'):
            setattr(scheduler, name, 'nonsense')
        assert getattr(scheduler, name) == before
    for parts in (factors.lr_lambdas, sequence.schedulers):
        with pytest.raises(TypeError, match='made of is fixed at construction'):
            parts.append(factors)
    with pytest.raises(TypeError, match='made of is fixed at construction'):
        factors.lr_lambdas[0] = abs


class Ramp(bo.LRScheduler):
    """With a number that is live, and one that is fixed."""

    def __init__(self, *base_lr, slope=0.5, period=4):
        super().__init__(*base_lr, numbers={'slope': slope}, fixed={'period': period})

    def affine(self, epoch, group):
        return 0.0, 1.0 - self.slope * (epoch % self.period) / self.period


@pytest.mark.parametrize('jit', [False, True])
def test_affine_reads_the_numbers_of_its_group(jit, x64):
    params = {k: ParamState(jnp.ones(())) for k in 'ab'}
    opt = bo.SGD(lr=Ramp(1.0, slope=[0.4, 0.8])).register_trainable_weights({'a': params['a']})
    opt.add_param_group({'b': params['b']}, lr=2.0)
    assert opt.lr.slope == [0.4, 0.8] and opt.lr.period == 4
    step = brainstate.transform.jit(opt.lr.step) if jit else opt.lr.step
    step()
    rates = [float(group['lr']) for group in opt.param_groups]
    np.testing.assert_allclose(rates, [1.0 * 0.9, 2.0 * 0.8], rtol=1e-12)
    opt.lr.slope = [0.8, 0.4]
    step()
    rates = [float(group['lr']) for group in opt.param_groups]
    np.testing.assert_allclose(rates, [1.0 * 0.6, 2.0 * 0.8], rtol=1e-12)
    assert opt.lr.slope == [0.8, 0.4]
    with pytest.raises(bo.IncompatibleCheckpoint, match='period'):
        Ramp(1.0, slope=[0.4, 0.8], period=5).load_state_dict(opt.lr.state_dict())


def test_a_formula_and_arguments_of_its_own():
    class Named(bo.LRScheduler):
        schedule = bo.schedules.cosine

        def __init__(self, *base_lr, label='a', last_epoch=0):
            own = {'T_max': 4, 'eta_min': 0.1}
            super().__init__(*base_lr, last_epoch=last_epoch, fixed={'label': label}, **own)

    opt = bo.SGD(lr=Named(1.0, label='b'))
    for _ in range(2):
        opt.lr.step()
    assert (opt.lr.label, opt.lr.T_max) == ('b', 4) and "label='b'" in repr(opt.lr)
    np.testing.assert_allclose(opt.current_lr, 0.55, rtol=1e-6)
    opt.lr.eta_min = 0.2  # is checked together with what the formula takes besides
    opt.lr.step(4)
    np.testing.assert_allclose(opt.current_lr, 0.2, rtol=1e-6)


def test_the_formula_of_the_base_reads_the_numbers_of_its_group():
    class Slower(bo.ExponentialLR):
        def affine(self, epoch, group):
            a, b = super().affine(epoch, group)
            return a, 0.5 * b

    opt = bo.SGD(lr=Slower([1.0, 2.0], gamma=[0.5, 0.25]))
    opt.register_trainable_weights({'a': ParamState(jnp.ones(()))})
    opt.add_param_group({'b': ParamState(jnp.ones(()))})
    np.testing.assert_allclose(opt.lr.preview(2), [[0.5, 1.0], [0.25, 0.25]], rtol=1e-6)
    opt.lr.step()
    opt.lr.gamma = [0.25, 0.5]  # goes on from what there is
    opt.lr.step()
    rates = [float(group['lr']) for group in opt.param_groups]
    np.testing.assert_allclose(rates, [0.25 * 0.25, 0.25 * 0.5], rtol=1e-6)


def test_affine_returns_a_pair():
    class Single(bo.LRScheduler):
        def affine(self, epoch, group):
            return 0.5

    with pytest.raises(TypeError, match=r'affine of Single must return a pair \(a, b\).*got 0.5'):
        Single(0.1).step()
