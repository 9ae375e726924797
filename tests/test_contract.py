"""The promises of the design, each as a property over every row of the registry."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate.transform import for_loop, jit
from cases import (
    CASE,
    CASES,
    PROMISES,
    SHAPES,
    build,
    gradients,
    grads_tree,
    group_of,
    make_params,
    nested,
    over_cases,
    over_classes,
    reference_for,
    start,
)
from contract_runs import assert_usable, kept, moments
from looking import (
    assert_close,
    compilations,
    digest,
    named,
    signature,
    values_of,
)

import braintools_optim as bo

# ---- the registry itself ------------------------------------------------------------------------


def test_every_exported_optimizer_has_a_row():
    exported = [getattr(bo, name) for name in bo.__all__]
    optimizers = {x for x in exported if isinstance(x, type) and issubclass(x, bo.Optimizer)}
    assert optimizers - {bo.Optimizer} <= {cls for case in CASES for cls in case.cls.__mro__}


def test_rows_are_complete():
    assert len(CASE) == len(CASES)
    for case in CASES:
        for promise, reason in case.skip.items():
            assert promise.partition(':')[0] in PROMISES and len(reason) > 10, (case.id, promise)


@over_cases('live')
def test_every_number_of_a_row_is_moved_or_says_why_not(case):
    mentioned = {*case.live, *(k.removeprefix('live:') for k in case.skip if ':' in k)}
    assert mentioned == set(case.make()._numbers)


@over_classes('live')
def test_a_scheduler_drives_every_group(case):
    """Stepped with the optimizer it gives what assigning the same learning rates gives."""
    lr = case.kwargs.get('lr', 0.05)
    schedule = bo.schedules.cosine(lr, T_max=6)
    params, others = make_params(), make_params()
    opt = build(case, params, groups=2, lr=bo.CosineAnnealingLR(lr, T_max=6))
    twin = build(case, others, groups=2, lr=lr)
    for t in range(4):
        for group in twin.param_groups:
            group['lr'] = schedule(t)
        assert opt.get_last_lr() == twin.get_last_lr() == [schedule(t)] * 2
        opt.step(grads_tree(t))
        twin.step(grads_tree(t))
        opt.lr.step()
    ends, first = named(params), start()
    for name, end in named(others).items():
        np.testing.assert_array_equal(ends[name], end)
        assert not np.allclose(end, first[name]), name


# ---- live hyper-parameters ----------------------------------------------------------------------


def values_at(case, t, group):
    """The numbers before step t: the row's own, then moving, with a rest at the steps 20 to 23."""
    return {} if t < 2 else case.numbers(20 if 20 <= t < 24 else t, group)


def follow(case, steps, moving):
    """The reference's parameters after each step, with only some numbers moving."""
    ref, step = reference_for(case)
    trajectory = []
    for t in range(steps):
        at = [{k: v for k, v in values_at(case, t, g).items() if k in moving} for g in (0, 1)]
        step(gradients(t), lambda name, at=at: at[group_of(name)])
        trajectory.append(dict(ref.params))
    return trajectory


@over_cases('live')
def test_numbers_change_each_step_without_compiling(case, x64):
    follow_moving_numbers(case, 'eager')


WITH_MORE_NUMBERS = [  # rows that have a number which no row of their class before them has
    case
    for i, case in enumerate(CASES)
    if not {*case.live} <= {k for other in CASES[:i] if other.cls is case.cls for k in other.live}
]


@over_cases('live', WITH_MORE_NUMBERS)
def test_numbers_change_each_step_without_retracing(case, x64):
    follow_moving_numbers(case, 'jit')


def follow_moving_numbers(case, how):
    """A run whose numbers all move is the reference's, and is compiled once."""
    params = make_params()
    opt = build(case, params, groups=2)
    traces = 0

    def step(grads):
        nonlocal traces
        traces += 1
        opt.step(grads)

    take = jit(step) if how == 'jit' else opt.step
    want = follow(case, 50, case.live)
    grads = [grads_tree(t) for t in range(50)]
    with compilations() as first:
        take(grads[0])
    take(grads[1])
    got = [named(params)]
    with compilations() as later:
        for t in range(2, 50):
            for group in opt.param_groups:
                for name, value in values_at(case, t, group.index).items():
                    group[name] = value
            take(grads[t])
            got.append(named(params))
    assert later == []
    if how == 'jit':
        assert traces == 1
    else:
        assert len([name for name in first if name != 'jit(copy)']) == 1
    for t, found in enumerate(got, start=1):
        assert_close(found, want[t], what=f'after step {t}')


@over_cases('live')
def test_each_live_number_matters_to_the_test_above(case):
    want = follow(case, 8, case.live)
    for name in case.live:
        still = follow(case, 8, set(case.live) - {name})
        # Nothing is told about momentum by one step from zero.
        t = 7 if name in ('momentum', 'dampening') or 'late' in case.traits else 2
        moved = [np.abs(want[t][k] - still[t][k]).max() for k in SHAPES]
        assert max(moved) > 1e-6, name


@over_classes('live')
def test_numbers_set_inside_jit_and_outside_are_one_trace(case, x64):
    params = make_params()
    opt = build(case, params, groups=2)
    traces = 0

    @jit
    def step(grads, lr):
        nonlocal traces
        traces += 1
        opt.param_groups[1]['lr'] = lr
        opt.step(grads)

    ref, ref_step = reference_for(case)
    low, high = case.live['lr']
    for t in range(6):
        inside, outside = low + 0.1 * t * (high - low), high - 0.1 * t * (high - low)
        if t % 2:
            opt.param_groups[0]['lr'] = outside
        else:
            outside = opt.current_lr
        step(grads_tree(t), inside)
        ref_step(gradients(t), lambda name, lr=(outside, inside): {'lr': lr[group_of(name)]})
        assert_close(params, ref.params)
        assert opt.get_last_lr() == pytest.approx([outside, inside], rel=1e-12)
    assert traces == 1


@over_classes('live')
def test_assigning_on_the_optimizer_reaches_all_groups(case):
    opt = build(case, make_params(), groups=3)
    for name, (low, _) in case.live.items():
        if name != 'lr':
            setattr(opt, name, low)
            assert [group[name] for group in opt.param_groups] == [low] * 3
            assert getattr(opt, name) == low
    opt.current_lr = case.live['lr'][1]  # of group 0 alone, as in braintools
    assert opt.get_last_lr() == [case.live['lr'][1], case.kwargs['lr'], case.kwargs['lr']]


# ---- nothing changes shape ----------------------------------------------------------------------


def mixed_params():
    """Parameters of all precisions, one weakly typed, one in the value of a State with others."""
    return {
        'f32': brainstate.ParamState(jnp.full(3, 0.5, jnp.float32)),
        'half': brainstate.ParamState(
            {'bf16': jnp.full((2, 2), 0.5, jnp.bfloat16), 'f16': jnp.full(2, 0.5, jnp.float16)}
        ),
        'weak': brainstate.ParamState(jnp.asarray(0.5)),
        'empty': brainstate.ParamState(jnp.zeros((0, 3))),
    }


@over_cases('shapes')
def test_dtype_weak_type_and_shape_stay(case):
    params = mixed_params()
    opt = case.make().register_trainable_weights(params)
    # Gradients in float32 for all: a mixed-precision loss gives such.
    grads = jax.tree.map(lambda p: jnp.full(p.shape, 0.25), values_of(params))
    before = signature((values_of(params), opt._core.value))
    assert values_of(params)['weak'].weak_type
    for _ in range(2):
        opt.step(grads)
        assert signature((values_of(params), opt._core.value)) == before
    assert_moved(params)


@over_classes('shapes')
def test_a_loop_takes_all_precisions(case):
    params = mixed_params()
    opt = case.make().register_trainable_weights(params)
    grads = jax.tree.map(lambda p: jnp.full(p.shape, 0.25), values_of(params))
    before = signature((values_of(params), opt._core.value))
    for_loop(lambda t: opt.step(grads), np.arange(3))  # refuses what changes its type
    assert signature((values_of(params), opt._core.value)) == before
    assert_moved(params)


def assert_moved(params):
    assert all(np.isfinite(np.float32(x)).all() for x in jax.tree.leaves(values_of(params)))
    assert named(params)['f32'][0] != 0.5 and named(params)['weak'] != 0.5


# ---- gradients ----------------------------------------------------------------------------------


@over_cases('gradients')
def test_a_parameter_without_gradient_is_left_alone(case, x64):
    params = make_params()
    opt = build(case, params, groups=2)
    ref, ref_step = reference_for(case)
    missing = {  # by step: the names that get None, and the keys that are not there at all
        2: ({'block.c.bias'}, {'a'}),
        3: (set(), {'block'}),
        4: ({'s', 'block.c.weight', 'block.c.bias'}, {'a'}),
    }
    for t in range(6):
        none, gone = missing.get(t, (set(), set()))
        grads = {k: None if k in none else g for k, g in gradients(t).items()}
        tree = {k: v for k, v in nested(grads).items() if k not in gone}
        absent = {k for k in SHAPES if k in none or k.partition('.')[0] in gone}
        before, values = moments(opt), named(params)
        opt.step(tree)
        after = named(params)
        assert all(after[k].tobytes() == values[k].tobytes() for k in absent)
        assert kept(before, moments(opt), absent)
        moved = {k for k in SHAPES if (after[k] != values[k]).any()}
        assert {'a', 's'} - absent <= moved or 'rests' in case.traits
        ref_step({k: None if k in absent else g for k, g in gradients(t).items()})
        assert int(opt.step_count.value) == t + 1
        if 'no_absent_count' not in case.skip:
            assert_close(params, ref.params, what=f'after step {t}')


@over_classes('infinities')
def test_an_infinite_entry_without_gradient_is_left_alone(case):
    """As one that masks logits: it is not multiplied with a weight decay of zero."""
    ends = {}
    for entry in (1.0, -np.inf):
        values = start()
        values['block.c.weight'][1, 2] = entry
        params = make_params({k: jnp.asarray(v, float) for k, v in values.items()})
        opt = build(case, params, **dict.fromkeys({'weight_decay'} & case.kwargs.keys(), 0.0))
        for t in range(3):
            grads = gradients(t)
            grads['block.c.weight'][1, 2] = 0.0
            opt.step(nested({k: jnp.asarray(g, float) for k, g in grads.items()}))
        ends[entry] = named(params)
    assert ends[-np.inf]['block.c.weight'][1, 2] == -np.inf
    for name, end in ends[1.0].items():
        other = np.where(np.isinf(ends[-np.inf][name]), end, ends[-np.inf][name])
        np.testing.assert_allclose(other, end, rtol=1e-6, err_msg=name)
        assert (end != start()[name]).any() or 'rests' in case.traits, name


@over_classes('gradients')
def test_gradients_that_do_not_fit_are_refused_by_name(case):
    params = make_params()
    opt = build(case, params, groups=2)
    opt.step(grads_tree(0))
    before, grads, jitted = digest(opt, params), grads_tree(1), jit(opt.step)
    inner = {'c': {**grads['block']['c'], 'bias': jnp.ones(2)}}
    stray = {'c': {**grads['block']['c'], 'gain': jnp.ones(2)}}
    renamed = {'alpha': grads['a'], 'block': grads['block'], 's': grads['s']}
    for bad, error, says in (
        ({**grads, 'a': jnp.ones((3, 1))}, ValueError, r"'a'.*\(3,\).*\(3, 1\)"),
        ({**grads, 'block': inner}, ValueError, r"'block\.c\.bias'.*\(3,\).*\(2,\)"),
        ({**grads, 'block': stray}, KeyError, "'block', 'c', 'gain'"),
        (renamed, KeyError, r"'alpha'.*without a gradient are a\b"),
        ({'x': grads['a']}, KeyError, r"'x'.*Expected the keys.*: a, s, block\.c\b"),
    ):
        for step in (opt.step, jitted):
            with pytest.raises(error, match=says):
                step(bad)
            assert digest(opt, params) == before
    assert_usable(opt, params)


@over_classes('gradients')
def test_integer_parameters_are_refused_by_name(case):
    whole = {'c': {'weight': jnp.ones(2), 'number': jnp.arange(3)}}
    params = {'block': brainstate.ParamState(whole)}
    opt = case.make()
    before = digest(opt, params)
    with pytest.raises(TypeError, match=r"'block\.c\.number'.*int32"):
        opt.register_trainable_weights(params)
    assert digest(opt, params) == before and opt.param_groups == []
