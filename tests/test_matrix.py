"""What is special in Adafactor and SparseAdam, the optimizers that look at rows and columns."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from brainstate import ParamState
from brainstate.transform import for_loop, jit
from jax.experimental.sparse import BCOO, BCSR

import braintools_optim as bo

MATRIX = np.random.default_rng(5).normal(size=(6, 4))


def training(opt, steps=4, value=MATRIX, dtype=jnp.float32):
    """The parameter after each step on fixed gradients."""
    w = ParamState(jnp.asarray(value, dtype))
    opt.register_trainable_weights({'w': w})
    rng = np.random.default_rng(3)
    for _ in range(steps):
        opt.step({'w': jnp.asarray(rng.normal(size=np.shape(value)), dtype)})
        yield w.value


# ---- Adafactor ---------------------------------------------------------------------------------


def test_an_argument_under_its_other_name_may_be_traced():
    def bound(given):
        w = ParamState(jnp.ones((3, 2)))
        opt = bo.Adafactor(0.1, clip_threshold=given).register_trainable_weights({'w': w})
        return opt.d

    found = brainstate.transform.vmap(bound)(jnp.array([1.5, 2.0]))
    np.testing.assert_allclose(found, [1.5, 2.0])


@pytest.mark.parametrize('wrong', [np.inf, np.nan])
def test_adafactor_loses_what_is_not_finite_alone(wrong, x64):
    w = {'vector': ParamState(jnp.arange(1.0, 4.0)), 'stack': ParamState(1.0 + jnp.arange(8.0))}
    w['stack'].value = w['stack'].value.reshape(2, 2, 2)
    opt = bo.Adafactor(0.1).register_trainable_weights(w)
    stack = jnp.array([[[1.0, wrong], [2.0, 3.0]], [[1.0, 2.0], [3.0, 4.0]]])
    opt.step({'vector': jnp.array([1.0, wrong, 2.0]), 'stack': stack})
    np.testing.assert_allclose(w['vector'].value, [0.7839753100530713, np.nan, 2.783975310053071])
    np.testing.assert_allclose(  # torch 2.13.0
        w['stack'].value[1],
        [[4.608847855687841, 5.446827332562426], [6.475214329463923, 7.5052273249258805]],
    )
    opt.step({'vector': jnp.ones(3)})
    np.testing.assert_allclose(w['vector'].value, [0.7838753100530713, np.nan, 2.7839090391303225])


def test_adafactor_takes_the_names_of_braintools():
    theirs = {'clip_threshold': 1.2, 'decay_rate': 0.7, 'eps': (1e-6, 1e-2), 'lr': None}
    ours = {'d': 1.2, 'beta2_decay': -0.7, 'eps': (1e-6, 1e-2), 'lr': 1e-2}
    one, other = bo.Adafactor(**theirs), bo.Adafactor(**ours)
    np.testing.assert_array_equal(list(training(one)), list(training(other)))
    for opt in (one, other):
        assert (opt.clip_threshold, opt.decay_rate) == (opt.d, -opt.beta2_decay) == (1.2, 0.7)
    assert bo.Adafactor(decay_rate=-0.7).beta2_decay == -0.7  # as its first versions had it


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'d': 2.0, 'clip_threshold': 3.0}, ['d and clip_threshold', '2.0', '3.0']),
        ({'beta2_decay': -0.5, 'decay_rate': 0.6}, ['beta2_decay', '-0.5', '-0.6']),
        ({'clip_threshold': 0.5}, ['d in [1, inf]', '0.5']),
        ({'clip_threshold': jnp.ones(2)}, ['a number in [1, inf] for d', 'Array']),
        ({'beta2_decay': 0.5}, ['beta2_decay in (-inf, 0]', '0.5']),
        ({'decay_rate': 'x'}, ['decay_rate', "'x'"]),
        ({'beta1': 1.0}, ['beta1 in [0, 1)', '1.0']),
        ({'eps': (None, None)}, ['eps[1]', 'None']),
        ({'eps': (None, 1.0, 2.0)}, ['2 numbers', 'eps']),
        ({'eps': 1e-3}, ['2 numbers', 'eps', '0.001']),
        ({'factored': 1}, ['True or False', 'factored']),
    ],
)
def test_adafactor_refuses(options, words):
    with pytest.raises((TypeError, ValueError)) as caught:
        bo.Adafactor(**options)
    assert [w for w in ('Adafactor', *words) if w not in str(caught.value)] == []


def test_adafactor_without_average_keeps_none():
    opt = bo.Adafactor()
    list(training(opt, 1))
    with pytest.raises(ValueError, match='beta1=0 and keeps no state'):
        opt.beta1 = 0.9


def test_adafactor_takes_none_in_groups_as_at_construction():
    a, b, grads = (jnp.full((3, 2), x) for x in (1.0, 1.0, 0.5))
    opt = bo.Adafactor(0.1, eps=(0.5, 1e-3), beta1=None)
    opt.register_trainable_weights({'a': ParamState(a)})
    opt.add_param_group({'b': ParamState(b)}, eps=(None, 1e-3), beta1=None)
    opt.param_groups[0]['eps'] = (None, 1e-3)
    opt.param_groups[0]['beta1'] = None
    assert [g['eps'] for g in opt.param_groups] == [(0.0, 1e-3)] * 2
    opt.step({'a': grads, 'b': grads})
    np.testing.assert_array_equal(*(s.value for s in opt.param_states))
    for wrong in ((0.1, None), None):
        with pytest.raises(TypeError, match='eps.*None'):
            opt.eps = wrong
    with pytest.raises(TypeError, match='needs a number.*for d, got None'):
        opt.d = None


def test_adafactor_original_is_optax(x64):
    theirs = optax.adafactor(
        lambda t: jnp.minimum(1e-2, 1 / jnp.sqrt(t + 1.0)), min_dim_size_to_factor=1
    )
    p = jnp.asarray(MATRIX)
    state, rng = theirs.init(p), np.random.default_rng(3)
    for ours in training(bo.Adafactor(original=True), 10, dtype=float):
        updates, state = theirs.update(jnp.asarray(rng.normal(size=p.shape)), state, p)
        p = p + updates
        np.testing.assert_allclose(ours, p, rtol=1e-6)  # their counts are float32


@pytest.mark.parametrize('original', [False, True])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_adafactor_with_tiny_eps_survives_zero_gradients(original, dtype):
    opt = bo.Adafactor(lr=None, eps=(1e-30, 1e-3), original=original)
    params = {'w': ParamState(jnp.ones((3, 2), dtype)), 'b': ParamState(jnp.ones(3, dtype))}
    opt.register_trainable_weights(params)
    for scale in (0.0, 1e-3, 0.0):
        opt.step({k: jnp.full(p.value.shape, scale, dtype) for k, p in params.items()})
        assert all(np.isfinite(np.float32(p.value)).all() for p in params.values())
    assert params['w'].value[0, 0] < 1 and params['w'].value.dtype == dtype


def test_adafactor_keeps_a_row_and_a_column():
    opt = bo.Adafactor().register_trainable_weights({'w': ParamState(jnp.ones((3, 40, 50)))})
    assert sum(x.size for x in jax.tree.leaves(opt.opt_state.value)) == 1 + 3 * 40 + 3 * 50


@pytest.mark.parametrize('make', [bo.Adafactor, bo.Muon, bo.SparseAdam])
def test_complex_parameters_are_refused_by_name(make):
    with pytest.raises(TypeError, match=r"'block\.z' is complex64"):
        make().register_trainable_weights({'block': {'z': ParamState(jnp.ones((2, 2)) * 1j)}})


# ---- SparseAdam --------------------------------------------------------------------------------


def rows(numbers, data, shape=(6, 4), **flags):
    """A row-sparse gradient."""
    data = np.broadcast_to(np.asarray(data, np.float32), (len(numbers), *shape[1:]))
    return BCOO((data, np.reshape(numbers, (-1, 1)).astype(np.int32)), shape=shape, **flags)


def embedding(**options):
    w = ParamState(jnp.asarray(MATRIX, jnp.float32).at[0].set(-0.0))
    return w, bo.SparseAdam(0.1, **options).register_trainable_weights({'w': w})


def seen(opt):
    """The moments of the embedding."""
    state = opt.state_dict()['opt_state']['0']
    return state['mu']['w'], state['nu']['w'], state['leaf_counts']['w']


@pytest.mark.parametrize('take', ['eager', 'jit'])
def test_other_rows_stay_bit_for_bit(take):
    w, opt = embedding()
    step = opt.step if take == 'eager' else jit(opt.step)
    touched = set()
    for numbers in ([1, 3], [3], [1, 5, 1], []):  # each a program of its own
        before, mu, nu = w.value, *seen(opt)[:2]
        step({'w': rows(numbers, 0.5)})
        touched |= set(numbers)
        for old, new in ((before, w.value), *zip((mu, nu), seen(opt)[:2], strict=True)):
            changed = (np.asarray(old).view(np.int32) != np.asarray(new).view(np.int32)).any(axis=1)
            assert set(np.flatnonzero(changed)) == set(numbers)
    assert touched == {1, 3, 5} and seen(opt)[2] == 4


def test_all_rows_are_adam_with_another_eps():
    w, opt = embedding(eps=1e-12)
    other = ParamState(w.value)
    adam = bo.Adam(0.1, eps=1e-12).register_trainable_weights({'w': other})
    for t in range(5):
        g = np.random.default_rng(t).normal(size=(6, 4)).astype(np.float32)
        opt.step({'w': BCOO((g, np.arange(6)[:, None]), shape=g.shape)})
        adam.step({'w': jnp.asarray(g)})
    np.testing.assert_allclose(w.value, other.value, rtol=2e-5, atol=1e-6)


def test_rows_that_repeat_add_up_and_padding_is_nothing():
    results = []
    for numbers, data in (
        ([4, 2], [[2.0], [3.0]]),
        ([2, 4, 2, 4], [[1.0], [0.5], [2.0], [1.5]]),
        ([2, 6, 4, 77], [[3.0], [100.0], [2.0], [np.inf]]),
    ):
        w, opt = embedding(grad_clip_norm=2.0, grad_clip_value=1.0)
        for _ in range(3):
            opt.step({'w': rows(numbers, data)})
        results.append((w.value, *seen(opt)[:2]))
    for result in results[1:]:
        for got, want in zip(result, results[0], strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6)


def test_norm_is_that_of_the_dense_gradient():
    dense = rows([2, 4, 2], [[1.0], [0.5], [2.0]]).todense()
    norm = np.sqrt((dense * dense).sum())
    results = []
    for bound in (norm / 2, np.inf):
        w, opt = embedding(grad_clip_norm=bound)
        opt.step({'w': rows([2, 4, 2], [[1.0], [0.5], [2.0]])})
        results.append(seen(opt)[0])
    np.testing.assert_allclose(2 * results[0], results[1], rtol=1e-6)


def test_entries_instead_of_rows():
    w, opt = embedding()
    before = np.asarray(w.value)
    index = np.array([[1, 2], [5, 0], [1, 2]])
    opt.step({'w': BCOO((jnp.ones(3), index), shape=(6, 4))})
    moved = np.argwhere(before != np.asarray(w.value))
    np.testing.assert_array_equal(moved, [[1, 2], [5, 0]])
    np.testing.assert_allclose(seen(opt)[0][1, 2], 0.2, rtol=1e-6)


def test_groups_absent_gradients_loops_and_precision():
    def run(loop):
        params = {k: ParamState(jnp.ones((6, 4), jnp.bfloat16)) for k in 'abc'}
        opt = bo.SparseAdam(0.1).register_trainable_weights({k: params[k] for k in 'ab'})
        opt.add_param_group({'c': params['c']}, lr=0.5, maximize=True)

        def step(row):
            g = rows([1, 2], 0.5)
            opt.step({'a': BCOO((g.data, row[:, None]), shape=g.shape), 'b': None, 'c': g})

        numbers = np.array([[0, 1], [1, 2], [2, 5]], np.int32)
        if loop:
            for_loop(step, numbers)
        else:
            for row in numbers:
                step(row)
        return {k: p.value for k, p in params.items()}, opt._core.value[0]

    values, state = run(loop=True)
    assert (values['b'] == 1).all() and {v.dtype for v in values.values()} == {jnp.bfloat16.dtype}
    assert (np.flatnonzero((values['c'] > 1).all(axis=1)) == [1, 2]).all()
    assert (np.flatnonzero((values['a'] < 1).all(axis=1)) == [0, 1, 2, 5]).all()
    for one, other in zip(*map(jax.tree.leaves, ((values, state), run(loop=False))), strict=True):
        np.testing.assert_allclose(np.float32(one), np.float32(other), rtol=1e-2)


def test_a_tied_embedding_has_one_gradient():
    def run(*shares):
        w = ParamState(jnp.asarray(MATRIX, jnp.float32))
        opt = bo.SparseAdam(0.1).register_trainable_weights({'in': w, 'out': w})
        opt.step(dict(zip(('in', 'out'), shares, strict=False)))
        return opt.state_dict()['opt_state']['0']['mu']['in']

    one = rows([1, 3], 1.0)
    for same in (one, rows([3, 1], 1.0)):  # the whole gradient, twice
        np.testing.assert_array_equal(run(one, same), run(one))
    np.testing.assert_allclose(run(one, rows([1, 3], 2.0)), 3 * run(one), rtol=1e-6)
    np.testing.assert_allclose(run(one, rows([3], 1.0))[[1, 3]].T, [[0.1, 0.2]] * 4, rtol=1e-6)


@pytest.mark.parametrize('take', ['eager', 'jit'])
@pytest.mark.parametrize(
    ('gradient', 'error', 'says'),
    [
        (jnp.ones((6, 4)), TypeError, "'w' is dense; .*BCOO: use Adam"),
        (rows([1], 1.0, (5, 4)), ValueError, r"'w'.*\(6, 4\), got \(5, 4\)"),
        (BCSR.fromdense(jnp.ones((6, 4))), TypeError, "'w' must be a BCOO with n_batch=0"),
        (
            BCOO.fromdense(jnp.ones((6, 4)), n_batch=1),
            TypeError,
            "'w' must be a BCOO with n_batch=0.*got a BCOO with n_batch=1",
        ),
        (rows([1], 1.0).data, TypeError, "'w' is dense"),
        (BCOO((jnp.ones((1, 4)) * 1j, [[1]]), shape=(6, 4)), TypeError, "'w' is complex64"),
    ],
)
def test_gradients_that_it_refuses(gradient, error, says, take):
    w, opt = embedding()
    before = w.value
    with pytest.raises(error, match=says):
        (opt.step if take == 'eager' else jit(opt.step))({'w': gradient})
    assert w.value is before and seen(opt)[2] == 0


@pytest.mark.parametrize('take', ['eager', 'jit'])
@pytest.mark.parametrize('make', [bo.Adam, bo.Adafactor, bo.Muon])
def test_others_refuse_sparse_gradients(make, take):
    opt = make().register_trainable_weights({'block': {'w': ParamState(jnp.ones((6, 4)))}})
    step = opt.step if take == 'eager' else jit(opt.step)
    with pytest.raises(TypeError, match=r"'block\.w' is sparse, a BCOO;.*SparseAdam"):
        step({'block': {'w': rows([1], 1.0)}})


def test_watched_steps_take_sparse_gradients():
    (w, opt), (twin, other) = embedding(), embedding()
    w.register_hook('write_after', lambda context: None)
    for o in (opt, other):
        o.step({'w': rows([1, 3, 1], 0.5)})
    np.testing.assert_array_equal(w.value, twin.value)


def test_an_embedding_learns_from_the_rows_it_looked_up():
    table = ParamState(jnp.ones((50, 3)))
    opt = bo.SparseAdam(0.05).register_trainable_weights({'table': table})
    words = jnp.array([3, 7, 3])

    @jit
    def step():
        found = table.value[words]
        grads = jax.grad(lambda x: ((x - 2.0) ** 2).sum())(found)
        opt.step({'table': BCOO((grads, words[:, None]), shape=table.value.shape)})

    for _ in range(100):
        step()
    np.testing.assert_allclose(table.value[jnp.array([3, 7])], 2.0, atol=0.05)
    assert (jnp.delete(table.value, jnp.array([3, 7]), axis=0) == 1).all()
    assert isinstance(table, brainstate.State)


@pytest.mark.parametrize('shape', [(3,), (2, 2)])
def test_adafactor_forgets_at_once_without_a_decay(shape):
    """With ``beta2_decay=0`` a square is the last gradient's, however large one was before."""
    ends, last = [], jnp.arange(1.0, 1.0 + np.prod(shape)).reshape(shape)
    for first in (1.0, 1e5):
        w = ParamState(jnp.ones(shape))
        opt = bo.Adafactor(0.1, beta2_decay=0.0).register_trainable_weights({'w': w})
        opt.step({'w': jnp.ones(shape).at[(0,) * len(shape)].set(first)})
        w.value = jnp.ones(shape)
        opt.step({'w': last})
        ends.append(w.value)
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-6)
    assert jnp.all(ends[0] < 0.97)


def test_lookahead_over_sparse_adam():
    """A row that has a gradient for the second time is synchronized with what it was at first."""
    fast, slow = ParamState(jnp.ones((3, 2))), ParamState(jnp.ones((3, 2)))
    inner = bo.SparseAdam(0.1).register_trainable_weights({'w': fast})
    opt = bo.Lookahead(bo.SparseAdam(0.1), sync_period=2).register_trainable_weights({'w': slow})
    for row in (0, 1):
        gradient = BCOO((jnp.ones((1, 2)), jnp.array([[row]])), shape=(3, 2))
        for one in (inner, opt):
            one.step({'w': gradient})
    np.testing.assert_allclose(slow.value, (1.0 + fast.value) / 2, rtol=1e-6)
