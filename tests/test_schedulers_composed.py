"""Schedulers made of schedulers: jumps, late beginnings, snapshots, and without an optimizer."""

import re

import brainstate
import jax.numpy as jnp
import numpy as np
import pytest
from scheduler_cases import two_groups

import braintools_optim as bo


def chain():
    """Return a hold at a tenth for three epochs, and a decay."""
    return bo.ChainedScheduler(
        [bo.ConstantLR(1.0, factor=0.1, total_iters=3), bo.ExponentialLR(gamma=0.9)]
    )


HELD = [0.1, 0.09, 0.081, 0.729, 0.6561]
"""What that chain gives: all of its factors at every epoch."""


def nested():
    return bo.ChainedScheduler([bo.ExponentialLR(1.0, gamma=0.5), chain()])


def in_sequence():
    return bo.SequentialLR([bo.ConstantLR(1.0, factor=1.0), chain()], milestones=[2])


def sequence_in_chain():
    """Return a decay over a sequence, which begins with the decay's rate wherever one jumps to."""
    parts = [bo.StepLR(step_size=1, gamma=0.5), bo.ExponentialLR(gamma=0.8)]
    return bo.ChainedScheduler([bo.ExponentialLR(1.0, gamma=0.9), bo.SequentialLR(parts, [2])])


def rates_of(scheduler, count):
    """Return what it gives in so many epochs, stepped."""
    found = []
    for _ in range(count):
        found.append(scheduler.get_last_lr()[0])
        scheduler.step()
    return found


def test_a_chain_that_begins_late_keeps_all_of_its_schedulers(x64):
    want = [1.0, 1.0, *HELD]
    np.testing.assert_allclose(in_sequence().preview(7).ravel(), want, rtol=1e-12)
    np.testing.assert_allclose(rates_of(two_groups(in_sequence())[0].lr, 7), want, rtol=1e-12)
    opt, _ = two_groups(in_sequence())

    def body(_):
        rate = opt.current_lr
        opt.lr.step()
        return rate

    got = brainstate.transform.for_loop(body, jnp.arange(7))
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize('traced', [False, True])
@pytest.mark.parametrize('make', [chain, nested, in_sequence, sequence_in_chain])
def test_jumps_of_what_is_composed(make, traced, x64):
    """Where it jumps to there is what going there gives, if nothing was changed on the way."""
    want = make().preview(9)
    if make is sequence_in_chain:  # at a milestone a step forgets what came before
        want = (0.9 ** np.arange(9) * [1, 0.5, *0.8 ** np.arange(7)])[:, None]
    opt, _ = two_groups(make())
    jump = brainstate.transform.jit(opt.lr.step) if traced else opt.lr.step
    for epoch in (4, 1, 7, 0, 3):
        jump(jnp.asarray(epoch) if traced else epoch)
        assert opt.current_lr == pytest.approx(want[epoch, 0], rel=1e-12)
        opt.lr.step()
        ratio = want[epoch + 1, 0] / want[epoch, 0]
        if not (make is sequence_in_chain and epoch + 1 == 2):
            assert opt.current_lr / want[epoch, 0] == pytest.approx(ratio, rel=1e-12)


@pytest.mark.parametrize('make', [chain, nested, in_sequence, sequence_in_chain])
def test_without_an_optimizer_it_gives_what_it_previews(make):
    want = make().preview(8).ravel()
    scheduler = make()
    np.testing.assert_allclose(rates_of(scheduler, 8), want, rtol=1e-12)
    assert scheduler.get_lr() == scheduler.get_last_lr() == scheduler.current_lrs.value
    scheduler = make()
    traced = brainstate.transform.for_loop(
        lambda _: (scheduler.get_last_lr()[0], scheduler.step())[0], jnp.arange(8)
    )
    np.testing.assert_allclose(traced, want, rtol=1e-6)


def test_minima_of_a_chain_without_an_optimizer():
    def make():
        return bo.ChainedScheduler(
            [bo.CosineAnnealingLR(1.0, T_max=4, eta_min=0.1), bo.ExponentialLR(gamma=0.5)]
        )

    np.testing.assert_allclose(rates_of(make(), 6), make().preview(6).ravel(), rtol=1e-12)


def test_bases_that_do_not_go_together_are_refused_at_once():
    with pytest.raises(ValueError, match=r'start from different base_lr, \[\[0.1\], \[0.2\]\]'):
        bo.ChainedScheduler([bo.ExponentialLR(0.1), bo.StepLR(0.2)])


@pytest.mark.parametrize('kind', [np.int64, np.int32, int, float, np.float64])
def test_milestones_are_whole_numbers_of_any_kind(kind):
    scheduler = bo.SequentialLR([bo.StepLR(0.1), bo.StepLR()], list(map(kind, [2])))
    assert scheduler.milestones == [2] and type(scheduler.milestones[0]) is int


@pytest.mark.parametrize('bad', [[True], [np.bool(True)], [2.5], [np.int64(0)], ['2']])
def test_milestones_that_are_none(bad):
    with pytest.raises(ValueError, match='SequentialLR needs ascending integers >= 1'):
        bo.SequentialLR([bo.StepLR(0.1), bo.StepLR()], bad)


def test_a_metric_is_needed_where_a_plateau_runs():
    parts = [bo.ConstantLR(0.1, factor=1.0), bo.ReduceLROnPlateau(patience=0, factor=0.5)]
    opt, _ = two_groups(bo.SequentialLR(parts, [2]))
    opt.lr.step()
    for _ in range(2):
        with pytest.raises(TypeError, match=r'SequentialLR\.step needs the metric .*step\(loss\)'):
            opt.lr.step()
    assert opt.lr.last_epoch.value == 1
    for given in ({'metric': 1.0}, {'metrics': 1.0}):
        opt.lr.step(**given)
    opt.lr.step(1.0)
    assert opt.current_lr == pytest.approx(0.025)
    with pytest.raises(TypeError, match='needs the metric'):
        brainstate.transform.jit(opt.lr.step)()


# ---- what a snapshot says of how a scheduler was built -------------------------------------------


def cyclic(**options):
    return bo.CyclicLR(0.01, 0.1, 2, **options)


def one_cycle(**options):
    return bo.OneCycleLR(0.1, 10, **options)


def sequence(milestones):
    return bo.SequentialLR([bo.LinearLR(0.1, total_iters=3), bo.StepLR()], milestones)


BUILT = {
    'milestones': (lambda: sequence([3]), lambda: sequence([8]), r'milestones \[3\], here .*\[8\]'),
    'cycle_momentum': (
        lambda: cyclic(cycle_momentum=False),
        lambda: cyclic(cycle_momentum=True),
        "'cycle_momentum': False.*here with.*'cycle_momentum': True",
    ),
    'div_factor': (
        lambda: one_cycle(div_factor=10.0),
        lambda: one_cycle(div_factor=50.0),
        "'div_factor': 10.0.*here with.*'div_factor': 50.0",
    ),
}


OTHERS = {  # which the first files tell, too
    'more milestones': (
        lambda: bo.MultiStepLR(0.1, [2]),
        lambda: bo.MultiStepLR(0.1, [2, 4]),
        r"'milestones': \[2\].*here with.*\[2, 4\]",
    ),
}


@pytest.mark.parametrize('name', [*BUILT, *OTHERS])
def test_a_scheduler_that_was_built_otherwise_is_refused(name, tmp_path):
    theirs, here, says = (BUILT | OTHERS)[name]
    opt, _ = two_groups(theirs(), bo.SGD, momentum=0.9)
    opt.lr.step()
    opt.save(tmp_path / 'run.ckpt')
    other, _ = two_groups(here(), bo.SGD, momentum=0.9)
    before = other.state_dict()
    for strict in (True, False) if name in BUILT else (True,):
        with pytest.raises(bo.IncompatibleCheckpoint, match=says):
            other.load(tmp_path / 'run.ckpt', strict=strict)
    assert str(other.state_dict()) == str(before)
    if name in OTHERS:
        assert re.search(says, str(other.load(tmp_path / 'run.ckpt', strict=False).unexpected))
    again, _ = two_groups(theirs(), bo.SGD, momentum=0.9)
    again.load(tmp_path / 'run.ckpt')
    assert again.get_last_lr() == opt.get_last_lr()


@pytest.mark.parametrize('name', BUILT)
def test_the_first_snapshots_do_not_say_it(name):
    """They load, as files of one format always do."""
    opt, _ = two_groups(BUILT[name][0](), bo.SGD, momentum=0.9)
    saved = opt.state_dict()
    (scheduler,) = saved['schedulers']
    holder = scheduler if name == 'milestones' else scheduler['fixed']
    del holder[name]
    opt.load_state_dict(saved)


def test_whether_the_momentum_moves_is_what_counts():
    """None means that it does where there is one."""
    opt, _ = two_groups(cyclic(), bo.SGD, momentum=0.9)
    other, _ = two_groups(cyclic(cycle_momentum=True), bo.SGD, momentum=0.9)
    other.load_state_dict(opt.state_dict())
    without, _ = two_groups(cyclic(), bo.SGD)
    assert without.state_dict()['schedulers'][0]['fixed']['cycle_momentum'] is False


# ---- groups that came or went --------------------------------------------------------------------

ANY = {
    'a plain rate': lambda: 0.1,
    'StepLR': lambda: bo.StepLR(0.1, 1, 0.5),
    'sequence': lambda: bo.SequentialLR(
        [bo.LinearLR(0.1, start_factor=0.1, total_iters=3), bo.ExponentialLR(gamma=0.5)], [2]
    ),
    'chain': lambda: bo.ChainedScheduler([bo.StepLR(0.1, 2), bo.ExponentialLR(gamma=0.5)]),
    'OneCycleLR': lambda: bo.OneCycleLR(0.1, 10),
    'ReduceLROnPlateau': lambda: bo.ReduceLROnPlateau(0.1, patience=0, factor=0.5),
    'MultiplicativeLR': lambda: bo.MultiplicativeLR(0.1, lambda t: 0.9),
}


def driven(scheduler, groups):
    """Return an optimizer with so many groups, whose weight decay is driven, too."""
    opt = bo.SGD(lr=scheduler, momentum=0.9)
    opt.register_trainable_weights({'a': brainstate.ParamState(jnp.ones(2))})
    if groups > 1:
        opt.add_param_group({'b': brainstate.ParamState(jnp.ones(2))}, lr=0.02)
    bo.ParamScheduler(opt, 'weight_decay', bo.schedules.linear(0.1, 1.0, 0.0, 10))
    return opt


@pytest.mark.parametrize('name', ANY)
def test_schedules_go_on_for_the_groups_that_are_there(name, tmp_path):
    make, path = ANY[name], tmp_path / 'run.ckpt'

    def go_on(opt, count):
        for _ in range(count):
            for scheduler in (opt.lr, *opt.schedulers):
                scheduler.step(*([1.0] if isinstance(scheduler, bo.ReduceLROnPlateau) else []))

    one, two = driven(make(), 1), driven(make(), 2)
    for opt in (one, two):
        go_on(opt, 4)
    one.save(path)
    grown = driven(make(), 2)
    fresh = grown.get_last_lr()
    report = grown.load(path, strict=False)
    assert any("groups ['0'], this optimizer has ['0', '1']" in x for x in report.missing)
    assert grown.get_last_lr()[0] == one.current_lr and grown.weight_decay == one.weight_decay
    if name not in ('ReduceLROnPlateau', 'MultiplicativeLR'):  # those know no epoch but the present
        np.testing.assert_allclose(grown.get_last_lr(), two.get_last_lr(), rtol=1e-12)
    else:
        assert grown.get_last_lr()[1] == fresh[1]
    two.save(path)
    shrunk = driven(make(), 1)
    report = shrunk.load(path, strict=False)
    assert any("groups ['0', '1'], this optimizer has ['0']" in x for x in report.unexpected)
    assert shrunk.get_last_lr() == two.get_last_lr()[:1]
    for opt, like in ((grown, one), (shrunk, two)):
        for each in (opt, like):
            go_on(each, 1)
        assert opt.current_lr == like.current_lr
    with pytest.raises(bo.IncompatibleCheckpoint, match=r"groups \['0', '1'\]"):
        driven(make(), 1).load(path)


@pytest.mark.parametrize('make', [chain, in_sequence])
def test_without_an_optimizer_there_is_no_rate_to_replace(make):
    scheduler = make()
    before = scheduler.state_dict()
    for change in (
        lambda: scheduler.apply(lambda lr: 2.0 * lr),
        lambda: setattr(scheduler.current_lrs, 'value', [0.5]),
    ):
        with pytest.raises(ValueError, match='drives no optimizer.*give it to one'):
            change()
    assert repr(scheduler.state_dict()) == repr(before)
    opt, _ = two_groups(scheduler)
    first = opt.get_last_lr()
    scheduler.apply(lambda lr: 2.0 * lr)
    assert opt.get_last_lr() == [2.0 * lr for lr in first]


AFTER_A_PLATEAU = {  # the rates of torch 2.13 at the first four epochs
    'lambda': (lambda opt: bo.LambdaLR(opt, lambda e: 0.9**e), [1e-3, 9e-4, 8.1e-4, 7.29e-4]),
    'restarts': (lambda opt: bo.CosineAnnealingWarmRestarts(opt, T_0=2), [1e-3, 5e-4, 1e-3, 5e-4]),
    'sequence': (
        lambda opt: bo.SequentialLR(
            opt,
            [bo.ConstantLR(opt, factor=0.5, total_iters=2), bo.ExponentialLR(opt, gamma=0.9)],
            milestones=[2],
        ),
        [5e-4, 5e-4, 1e-3, 9e-4],
    ),
    'two': (
        lambda opt: [bo.LambdaLR(opt, lambda e: 0.9**e), bo.LambdaLR(opt, lambda e: 1.0)][0],
        [1e-3, 9e-4, 8.1e-4, 7.29e-4],
    ),
}


@pytest.mark.parametrize(('attach', 'rates'), AFTER_A_PLATEAU.values(), ids=AFTER_A_PLATEAU)
def test_what_starts_after_a_plateau_starts_from_the_reduced_rate(attach, rates):
    opt = bo.SGD(0.01).register_trainable_weights({'w': brainstate.ParamState(jnp.ones(2))})
    plateau = bo.ReduceLROnPlateau(opt, factor=0.1, patience=0)
    plateau.step(1.0)
    plateau.step(2.0)
    scheduler = attach(opt)
    found = [opt.current_lr]
    for _ in range(3):
        scheduler.step()
        found.append(opt.current_lr)
    np.testing.assert_allclose(found, rates, rtol=1e-12)


def test_what_starts_beside_a_one_cycle_starts_from_its_base():
    opt = bo.SGD(0.1).register_trainable_weights({'w': brainstate.ParamState(jnp.ones(2))})
    bo.ExponentialLR(opt, gamma=0.9)
    bo.OneCycleLR(opt, max_lr=1.0, total_steps=9, cycle_momentum=False)
    scheduler = bo.LambdaLR(opt, lambda epoch: 0.5**epoch)
    found = [opt.current_lr]
    for _ in range(2):
        scheduler.step()
        found.append(opt.current_lr)
    np.testing.assert_allclose(found, [0.04, 0.02, 0.01], rtol=1e-12)  # torch 2.13


def second_at_half(rate=0.4):
    """Return an optimizer of two groups, the second at half the rate of the first."""
    w, v = (brainstate.ParamState(jnp.ones(2)) for _ in range(2))
    opt = bo.SGD(rate).register_trainable_weights({'w': w})
    opt.add_param_group({'v': v}, lr=rate / 2)
    return opt


def held(base=None):
    """Return a sequence that is at its base for long."""
    first = bo.ConstantLR(total_iters=0) if base is None else bo.ConstantLR(base, total_iters=0)
    return bo.SequentialLR([first, bo.ExponentialLR()], milestones=[9])


@pytest.mark.parametrize('base', [None, 0.4])
def test_a_base_within_a_chain_leaves_other_groups_theirs(base, x64):
    warmup = bo.LinearLR(start_factor=0.5, total_iters=4)
    opt = second_at_half()
    opt.add_scheduler(chain := bo.ChainedScheduler([warmup, held(base)]))
    assert [list(part.base_lrs) for part in chain.schedulers] == [[0.4, 0.2]] * 2
    assert opt.get_last_lr() == [0.2, 0.1]
    for _ in range(4):
        chain.step()
    np.testing.assert_allclose(opt.get_last_lr(), [0.4, 0.2], rtol=1e-12)


def test_the_same_bases_assigned_to_a_chain_change_nothing(x64):
    opt = second_at_half()
    opt.add_scheduler(chain := bo.ChainedScheduler([bo.StepLR(step_size=2, gamma=0.5), held(0.4)]))
    chain.step()
    chain.step()
    chain.base_lrs = [0.4, 0.2]
    assert opt.get_last_lr() == [0.2, 0.1]
    other = second_at_half()
    parts = [bo.StepLR(step_size=2, gamma=0.5), held(0.4)]
    other.add_scheduler(copy := bo.ChainedScheduler(parts))
    other.load_state_dict(opt.state_dict())
    assert copy.base_lrs == chain.base_lrs == [0.4, 0.2]
    for scheduler in (chain, copy):
        scheduler.step()
        scheduler.step()
    assert opt.get_last_lr() == other.get_last_lr() == [0.1, 0.05]


def test_a_second_scheduler_may_name_the_base_while_the_first_warms_up(x64):
    opt = second_at_half()
    bo.LinearLR(opt, start_factor=0.5, total_iters=4)
    opt.add_scheduler(second := bo.ExponentialLR(0.4, gamma=0.9))
    assert second.base_lrs == [0.4, 0.2] and opt.get_last_lr() == [0.2, 0.1]


@pytest.mark.parametrize('steps', [0, 3, 7, 9])
def test_a_group_that_joins_a_sequence_has_the_momentum_of_the_others(steps):
    # Both cycles set it when they begin to drive an optimizer, and while they run.
    cycles = [bo.OneCycleLR(max_lr=x, total_steps=4, base_momentum=0.8 + x) for x in (0.02, 0.01)]
    rests = [bo.ConstantLR(total_iters=0) for _ in cycles]
    parts = [rests[0], cycles[0], rests[1], cycles[1]]
    w, v = (brainstate.ParamState(jnp.ones(2)) for _ in range(2))
    opt = bo.Adam(bo.SequentialLR(parts, milestones=[2, 6, 8])).register_trainable_weights({'w': w})
    for _ in range(steps):
        opt.lr.step()
    opt.add_param_group({'v': v})
    one, other = (group['betas'][0] for group in opt.param_groups)
    assert one == other != 0.9


def previewed_in_four_ways(make, epochs):
    """What a composite gives: alone, as lr=, added, and built over an optimizer of other rates."""
    by_constructor, added, over = (two_groups(lr)[0] for lr in (make(), [0.3, 0.2], [0.3, 0.2]))
    added.add_scheduler(make())
    make(over)
    each_group = [opt.lr.preview(epochs).T for opt in (by_constructor, added, over)]
    return np.concatenate([make().preview(epochs).T, *each_group])


def test_what_follows_a_cycle_starts_from_its_base_however_it_is_attached(x64):
    def cycle(*opt):
        parts = [bo.CyclicLR(*opt, 0.05, 0.5, step_size_up=2), bo.CosineAnnealingLR(*opt, T_max=10)]
        return bo.SequentialLR(*opt, parts, milestones=[3])

    alone, *others = previewed_in_four_ways(cycle, 6)
    np.testing.assert_allclose(alone[[0, 2, 3]], [0.05, 0.5, 0.05], rtol=1e-12)
    np.testing.assert_allclose(others, [alone] * 6, rtol=1e-12)


CYCLE_AND = {  # what the cycle is chained with, and torch's rates
    'StepLR': ({'step_size': 2, 'gamma': 0.5}, [0.05, 0.275, 0.25, 0.275, 0.025, 0.275]),
    'LambdaLR': (
        {'lr_lambda': lambda epoch: 1 / (1 + epoch)},
        [0.05, 0.025, 0.05 / 3, 0.0125, 0.01, 0.05 / 6],
    ),
    'ExponentialLR': ({'gamma': 0.9}, [0.05, 0.2475, 0.45, 0.2475, 0.045, 0.2475]),
}


@pytest.mark.parametrize('name', CYCLE_AND)
def test_a_cycle_in_a_chain_gives_its_base_to_the_others(name, x64):
    options, want = CYCLE_AND[name]

    def chain(*opt):
        cycle = bo.CyclicLR(*opt, 0.05, 0.5, step_size_up=2)
        return bo.ChainedScheduler([cycle, getattr(bo, name)(*opt, **options)])

    np.testing.assert_allclose(previewed_in_four_ways(chain, 6), [want] * 7, rtol=1e-12)


def test_a_cycle_that_has_come_to_its_end_begins_anew_after_a_jump_back():
    parts = [bo.ConstantLR(0.5, total_iters=0), bo.OneCycleLR(0.5, total_steps=3)]
    opt = bo.SGD(lr=bo.SequentialLR(parts, milestones=[2]))
    rates = []
    for _ in range(5):
        opt.lr.step()
        rates.append(opt.current_lr)
    opt.lr.step(1)
    again = [opt.current_lr]
    for _ in range(4):
        opt.lr.step()
        again.append(opt.current_lr)
    assert again == rates


@pytest.mark.parametrize('nested', [False, True], ids=['alone', 'nested'])
def test_other_restarts_go_on_from_the_epoch_by_their_own_rule(nested):
    def made(period):
        opt = bo.SGD(0.1).register_trainable_weights({'w': brainstate.ParamState(jnp.ones(2))})
        scheduler = bo.CosineAnnealingWarmRestarts(opt, T_0=period)
        if nested:
            scheduler = bo.SequentialLR(opt, [scheduler, bo.StepLR(opt, 3)], milestones=[50])
        return opt, scheduler

    (old, before), (new, after), (never, stopped) = made(3), made(7), made(7)
    for _ in range(5):
        before.step()
        stopped.step()
    saved = old.state_dict()
    with pytest.raises(bo.IncompatibleCheckpoint, match='T_0'):
        new.load_state_dict(saved)
    new.load_state_dict(saved, strict=False)
    assert new.current_lr == old.current_lr
    for _ in range(4):
        after.step()
        stopped.step()
        assert new.current_lr == pytest.approx(never.current_lr)
    forged = saved['schedulers'][0]
    (forged['schedulers'][0] if nested else forged)['T_cur'] = 1
    with pytest.raises(bo.IncompatibleCheckpoint, match=r'T_cur and T_i must be \(2, 3\)'):
        made(3)[0].load_state_dict(saved)


@pytest.mark.parametrize('traced', [False, True])
def test_a_milestone_between_two_fractions_begins_what_follows(traced):
    """A step from 2.5 comes to 3.5, which is half an epoch after the milestone."""
    parts = [bo.ConstantLR(0.1, factor=1.0), bo.SWALR(swa_lr=0.01, anneal_epochs=4)]
    opt, _ = two_groups(bo.SequentialLR([*parts, bo.ExponentialLR(0.5, gamma=0.5)], [3, 6]))
    opt.lr.step(2.5)
    step = brainstate.transform.jit(opt.lr.step) if traced else opt.lr.step
    for _ in range(4):
        step()
    half, whole = (bo.schedules.swa(0.1, 0.01, anneal_epochs=4)(t) for t in (0.5, 2.5))
    assert opt.current_lr == pytest.approx(0.5 * 0.5**0.5, rel=1e-6)
    opt.lr.step(2.5), opt.lr.step()
    assert opt.current_lr == pytest.approx(float(half), rel=1e-6)
    opt.lr.step(), opt.lr.step()
    assert opt.current_lr == pytest.approx(float(whole), rel=1e-6)
