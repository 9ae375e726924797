"""Narrow parameters with wide masters: they are what a wide run gives, rounded."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from brainstate import ParamState
from brainstate.transform import for_loop, jit
from cases import (
    CASE,
    SHAPES,
    build,
    grads_tree,
    make_params,
    over_classes,
    start,
)
from looking import (
    assert_close,
    named,
)

import braintools_optim as bo
from braintools_optim.transforms import MasterState, with_masters

BF16 = jnp.bfloat16


def narrow_and_wide():
    """Equal parameters of the registry's problem, in bfloat16 and in JAX's default."""
    narrow = {k: jnp.asarray(v, BF16) for k, v in start().items()}
    return make_params(narrow), make_params({k: v.astype(float) for k, v in narrow.items()})


def masters_of(opt, group=0):
    _, (masters,) = opt._core.value[0][group].tree
    return masters


def sgd(w, **options):
    options = {'master_dtype': jnp.float32, **options}
    return bo.SGD(1e-3, **options).register_trainable_weights({'w': w})


@over_classes('masters')
def test_they_are_a_wide_run(case, x64):
    """On equal gradients masters are the parameters of a float64 run, the parameters round them."""
    follow_a_wide_run(case, [[*SHAPES]] * 6)


def test_they_are_a_wide_run_where_gradients_are_missing(x64):
    some = ['a', 'block.c.bias', 'block.c.weight']
    follow_a_wide_run(CASE['adam'], [[*SHAPES], some, ['s'], [*SHAPES]])


def follow_a_wide_run(case, present):
    """Take a step for each list of the names that have gradients, and compare after each."""
    params, others = narrow_and_wide()
    opt = build(case, params, groups=2, master_dtype=jnp.float64)
    twin = build(case, others, groups=2)
    for t, names in enumerate(present):
        opt.step(grads_tree(t, names=names))
        twin.step(grads_tree(t, names=names))
        masters = {**masters_of(opt, 0), **masters_of(opt, 1)}
        assert_close(named(masters), named(others), rtol=1e-12, what=f'step {t}')
        for name, got in named(params).items():
            assert got.dtype == BF16
            np.testing.assert_array_equal(got, named(masters)[name].astype(BF16))


def test_small_updates_add_up():
    w, plain = ParamState(jnp.ones(3, BF16)), ParamState(jnp.ones(3, BF16))
    opt, twin = sgd(w), sgd(plain, master_dtype=None)
    for _ in range(100):
        opt.step({'w': jnp.ones(3, BF16)})
        twin.step({'w': jnp.ones(3, BF16)})
    np.testing.assert_array_equal(w.value, np.full(3, 0.9, BF16))
    np.testing.assert_array_equal(plain.value, np.ones(3, BF16))


@pytest.mark.parametrize('dtype', [BF16, jnp.float16])
def test_gradients_are_not_rounded(dtype):
    w = ParamState(jnp.ones(2, dtype))
    opt = sgd(w)
    opt.current_lr = 1.0
    opt.step({'w': jnp.full(2, 0.1234567)})
    np.testing.assert_allclose(masters_of(opt)['w'], np.float32(1 - 0.1234567), rtol=1e-7)


def test_what_is_wide_has_none(x64):
    params = {k: ParamState(jnp.ones(2, k)) for k in ('float32', 'float64', 'complex64')}
    opt = bo.Adam(master_dtype=jnp.float32).register_trainable_weights(params)
    others = {k: ParamState(p.value) for k, p in params.items()}
    twin = bo.Adam().register_trainable_weights(others)
    grads = {k: jnp.full(2, 0.3, k) for k in params}
    opt.step(grads), twin.step(grads)
    assert {x.size for x in jax.tree.leaves(masters_of(opt))} == {0}
    for state, other in zip(opt.param_states, twin.param_states, strict=True):
        assert state.value.dtype == other.value.dtype
        np.testing.assert_array_equal(state.value, other.value)


def test_a_dtype_of_as_many_bits_is_not_wider():
    w = ParamState(jnp.ones(2, BF16))
    opt = bo.Adam(0.1, master_dtype=jnp.float16).register_trainable_weights({'w': w})
    before = jax.tree.map(lambda x: x.dtype, opt.opt_state.value)
    opt.step({'w': jnp.ones(2)})
    assert jax.tree.map(lambda x: x.dtype, opt.opt_state.value) == before
    assert w.value.dtype == BF16 and {x.size for x in jax.tree.leaves(masters_of(opt))} == {0}


@pytest.mark.parametrize('value', [5.0, np.nan, -0.0])
def test_it_goes_on_from_what_was_assigned(value):
    w = ParamState(jnp.ones(2, BF16))
    opt = sgd(w)
    opt.step({'w': jnp.ones(2)})
    w.value = w.value.at[0].set(value)
    opt.step({'w': jnp.ones(2)})
    want = np.float32([value, 1.0 - 1e-3]) - np.float32(1e-3)
    np.testing.assert_allclose(masters_of(opt)['w'], want, rtol=1e-6)
    np.testing.assert_array_equal(np.float32(w.value), np.float32(want.astype(BF16)))


@pytest.mark.parametrize('ends', [(6e4, -1e-7), (-6e4, 1e-7), (1.0, 3e4)])
@pytest.mark.parametrize('dtype', [BF16, jnp.float16])
def test_far_away_and_back(ends, dtype):
    """A step may go further than a difference in the wide dtype is exact, or out of range."""
    w = ParamState(jnp.full(2, ends[0], dtype))
    opt = sgd(w)
    opt.current_lr = 1.0
    first, goal = (float(np.asarray(x, dtype)) for x in ends)
    opt.step({'w': jnp.full(2, first - goal)})
    step = np.float32(first) - np.float32(first - goal)
    np.testing.assert_array_equal(w.value, np.full(2, step).astype(dtype))


def test_in_loops_groups_checkpoints_and_copies(tmp_path):
    def build_pair():
        a, b = (ParamState(jnp.full(4, x, BF16)) for x in (1.0, 2.0))
        opt = bo.AdamW(1e-3, master_dtype=jnp.float32).register_trainable_weights({'a': a})
        opt.add_param_group({'b': b}, lr=2e-3)
        return opt, a, b

    grads = {'a': jnp.full(4, 0.3), 'b': jnp.full(4, -0.2)}
    opt, a, b = build_pair()
    twin, c, d = build_pair()
    for_loop(lambda _: opt.step(grads), jnp.arange(3))
    jit(lambda: opt.step(grads))()
    opt.save(tmp_path / 'x.ckpt', params=True)
    for _ in range(4):
        twin.step(grads)
    for got, want in ((a, c), (b, d)):
        np.testing.assert_array_equal(got.value, want.value)
    resumed, e, f = build_pair()
    resumed.load(tmp_path / 'x.ckpt')
    for one in (resumed, twin):
        for _ in range(3):
            one.step(grads)
    for got, want in ((e, c), (f, d)):
        np.testing.assert_array_equal(got.value, want.value)
    for group in (0, 1):
        got, want = (jax.tree.leaves(masters_of(o, group)) for o in (resumed, twin))
        np.testing.assert_array_equal(got, want)
    again = copy.deepcopy(opt)
    again.step(grads)
    assert not np.array_equal(masters_of(again)['a'], masters_of(opt)['a'])


def test_checkpoints_tell_masters(tmp_path):
    with_them, without = sgd(ParamState(jnp.ones(2, BF16))), bo.SGD(1e-3)
    without.register_trainable_weights({'w': ParamState(jnp.ones(2, BF16))})
    for one, other in ((with_them, without), (without, with_them)):
        with pytest.raises(bo.IncompatibleCheckpoint, match='master_dtype was'):
            other.load_state_dict(one.state_dict())
    without.step({'w': jnp.ones(2)})
    without.save(tmp_path / 'x.ckpt')
    report = with_them.load(tmp_path / 'x.ckpt', strict=False, cast=True)
    assert any('master' in line for line in report.missing)
    assert with_them.step_count.value == 1


def test_closures_are_minimized_in_the_wide_dtype():
    """Of a parabola L-BFGS finds the bottom, which bfloat16 alone does not come near."""
    w = ParamState(jnp.array([3.0, -2.0], BF16))
    opt = bo.LBFGS(master_dtype=jnp.float32, max_iter=10).register_trainable_weights({'w': w})
    for _ in range(3):
        opt.step(closure=lambda: ((w.value.astype(jnp.float32) - 1.0) ** 2).sum())
    np.testing.assert_array_equal(w.value, np.ones(2, BF16))
    assert w.value.dtype == BF16


def test_masters_on_a_transformation():
    """It is one of optax': under jit, in scans, and with leaves that are masked."""
    params = {'a': jnp.ones(2, BF16), 'b': jnp.ones(2), 'c': jnp.ones(2, BF16)}
    tx = optax.masked(with_masters(optax.sgd(1e-3)), {'a': True, 'b': True, 'c': False})
    state = tx.init(params)
    assert isinstance(state.inner_state[1], MasterState)

    def body(carry, _):
        updates, new = tx.update(jax.tree.map(jnp.ones_like, params), carry[1], carry[0])
        updates['c'] = jnp.zeros(2, BF16)
        return (optax.apply_updates(carry[0], updates), new), None

    (ends, _), _ = jax.lax.scan(body, (params, state), length=100)
    np.testing.assert_array_equal(ends['a'], np.full(2, 0.9, BF16))
    np.testing.assert_allclose(ends['b'], 0.9, rtol=1e-5)
    infinite = {**params, 'a': jnp.array([jnp.inf, 1.0], BF16)}
    updates, _ = tx.update(params, state, infinite)
    np.testing.assert_array_equal(updates['a'], [0.0, 0.0])
    with pytest.raises(ValueError, match='with_masters needs the parameters'):
        with_masters(optax.sgd(1e-3)).update({'a': jnp.ones(2)}, state.inner_state)


def test_a_chain_computes_in_the_wide_dtype():
    """The squares of gradients in bfloat16 are not rounded to bfloat16."""
    grads, params = jnp.asarray([0.3, 1.7, -0.01], BF16), jnp.ones(3, BF16)
    tx, wide = with_masters(optax.scale_by_adam()), optax.scale_by_adam()
    _, (state, _) = tx.update(grads, tx.init(params), params)
    _, exact = wide.update(grads.astype(jnp.float32), wide.init(params.astype(jnp.float32)))
    assert state.nu.dtype == jnp.float32
    np.testing.assert_array_equal(state.nu, exact.nu)


def test_opt_tx_has_them():
    w = ParamState(jnp.ones(2, BF16))
    opt = sgd(w)
    updates, state = opt.tx.update({'w': jnp.ones(2)}, opt.opt_state.value, {'w': w.value})
    np.testing.assert_allclose(state[1].master['w'], 0.999, rtol=1e-6)
    assert updates['w'].dtype == jnp.float32


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'master_dtype': 'x'}, 'a floating-point dtype for master_dtype'),
        ({'master_dtype': jnp.int32}, 'a floating-point dtype for master_dtype'),
        ({'master_dtype': 'float32', 'state_dtype': 'float32'}, 'or master_dtype, got both'),
    ],
)
def test_what_is_refused(options, words):
    with pytest.raises(TypeError, match=words):
        bo.Adam(**options)


def test_extra_arguments_are_taken_by_chains_that_take_them():
    w = ParamState(jnp.ones(2, BF16))
    opt = bo.OptaxOptimizer(tx=optax.scale(-1.0), master_dtype=jnp.float32)
    opt.register_trainable_weights({'w': w})
    with pytest.raises(TypeError, match='takes no extra arguments'):
        opt.step({'w': jnp.ones(2)}, value=1.0)
    np.testing.assert_array_equal(w.value, np.ones(2, BF16))


def test_it_is_fixed():
    opt = sgd(ParamState(jnp.ones(2, BF16)))
    assert opt.master_dtype == jnp.float32
    with pytest.raises(AttributeError, match='master_dtype of SGD is fixed at construction'):
        opt.master_dtype = None


def test_a_copy_that_comes_back_from_overflow_leaves_the_parameter_infinite():
    """No update leads from there to a number."""
    tx = bo.transforms.with_masters(optax.sgd(1.0))
    params = {'w': jnp.array([65000.0], jnp.float16)}
    state = tx.init(params)
    for g in (-2000.0, 3000.0):
        updates, state = tx.update({'w': jnp.array([g], jnp.float16)}, state, params)
        params = optax.apply_updates(params, updates)
        assert params['w'].tolist() == [np.inf]
