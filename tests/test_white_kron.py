"""Quad and Skew: their rule in float64, their robustness, their state, and what users call."""

import functools
import inspect

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference_white_kron as rules
from brainstate import ParamState
from cases_white_kron import EXACT

import braintools_optim as bo
from braintools_optim import transforms

STYLES = ('quad', 'skew')
SPEC = jax.sharding.PartitionSpec
F32 = {'dtype': jnp.float32, 'block_size': 8}


def random_tree(shapes, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(scale * rng.normal(size=s), float) for k, s in shapes.items()}


def run(tx, params, grads, steps=None):
    """Scan over stacked gradients (or zeros for None); return updates and the state."""

    def one(state, g):
        updates, state = tx.update(g, state, params)
        return state, updates

    return jax.jit(lambda s, g: jax.lax.scan(one, s, g, steps)[::-1])(tx.init(params), grads)


def stacked(params, steps, seed=1, scale=1.0):
    shapes = {k: (steps, *p.shape) for k, p in params.items()}
    tree = random_tree(shapes, seed, scale)
    return {k: v.astype(params[k].dtype) for k, v in tree.items()}


def factors(state):
    return [getattr(state, k) for k in ('Ql', 'Qr', 'Ql_edge', 'Qr_edge', 'Ll', 'Lr')]


def same_bits(one, two):
    return all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    )


# ---- the rule ----------------------------------------------------------------------------------

MATRICES = {'w': (7, 5), 'v': (6,), 't': (3, 2, 4), 's': ()}


@pytest.mark.parametrize(
    'style, options',
    [
        ('quad', {'block_size': 3, 'update_every': 3}),
        ('skew', {'block_size': 3, 'per_layer': True, 'scanned_layers': True, 'b1': 0.5}),
        ('skew', {'max_size_dense': 5, 'block_size': 4, 'normalize_grads': True}),
    ],
    ids=['edges', 'layers', 'mixed'],
)
def test_float64_is_the_rule(style, options, x64):
    """Blocks with edges, layers, one diagonal side, and the balancing of step 100."""
    params = random_tree(MATRICES)
    grads = stacked(params, 104)
    tx = getattr(transforms, style)(0.01, **EXACT, **options)
    updates, _ = run(tx, params, grads)
    for k, p in params.items():
        memory, rule = {}, getattr(rules, style)
        for t in range(104):
            want = rule(np.asarray(p), np.asarray(grads[k][t]), memory, lr=0.01, **options) - p
            np.testing.assert_allclose(
                updates[k][t], want, rtol=1e-8, atol=1e-11, err_msg=f'{k} {t}'
            )


def test_factors_are_even_from_step_100_on():
    update, params, state = warm(noise_scale=0.0)
    state = state._replace(Ql={**state.Ql, 'w': 4.0 * state.Ql['w']})
    tops = []
    for t in range(3, 101):
        _, state = update(random_tree(TREE, t), state)
        blocks = [state.Ql['w'][0], state.Qr['w'][0]]
        tops.append([float(jnp.max(jnp.abs(q))) for q in blocks])
    assert abs(np.log(tops[94][0] / tops[94][1])) > 0.2  # after 98 steps
    np.testing.assert_allclose(*tops[95], rtol=1e-5)  # what step 100 begins with


@pytest.mark.parametrize('style', STYLES)
def test_vectors_are_whitened_entry_by_entry(style):
    """`q <- q (1 - z (T - 1))`, squared for Quad, with `T = (q^2 g)^2`."""
    g = np.array([3.0, -0.1, 0.02, 1.0])
    tx = getattr(transforms, f'scale_by_{style}')(None, 0.0, dtype=jnp.float32, noise_scale=0.0)
    state, q, bound = tx.init({'v': jnp.zeros(4)}), np.ones(4), 0.0
    update = jax.jit(tx.update)
    for t in range(1, 12):
        a = q * q * g
        bound = max(0.95 * bound + 0.05 * (max(a * a) + 1), max(a * a) + 1)
        z = max(0.7 / np.sqrt(1 + t / 1e4), 0.4) / bound / (2 if style == 'quad' else 1)
        q = q * (1 - z * (a * a - 1)) ** (2 if style == 'quad' else 1)
        want = q * q * g
        want *= 1.1 / max(np.sqrt(np.mean(want**2)), 1.1)
        got, state = update({'v': jnp.asarray(g)}, state)
        np.testing.assert_allclose(got['v'], want, rtol=2e-5)
    np.testing.assert_allclose(state.Ql['v'], q, rtol=2e-5)


@pytest.mark.parametrize('estimator', ['random', 'power'])
def test_estimated_norms_are_close_from_below(estimator):
    from braintools_optim.transforms.white_kron.norm import iterated_norm

    rng = np.random.default_rng(0)
    a = jnp.asarray(rng.normal(size=(5, 12, 3)) * 10.0 ** rng.integers(-8, 8, (5, 1, 1)))
    grams = jnp.concatenate([a @ a.swapaxes(1, 2), jnp.zeros((1, 12, 12))]).astype(jnp.float32)
    draws = None if estimator == 'power' else jnp.asarray(rng.normal(size=(6, 4, 12)), jnp.float32)
    found = np.asarray(iterated_norm(grams, draws, estimator, jnp.matmul))
    exact = np.linalg.norm(np.asarray(grams), 2, (1, 2))
    assert found[-1] == 0.0
    assert (found <= exact * (1 + 1e-5)).all() and (found[:-1] >= 0.9 * exact[:-1]).all()


# ---- robustness --------------------------------------------------------------------------------

TREE = {'w': (10, 6), 'l': (20, 3), 'v': (5,), 's': (), 'none': (0, 3)}


@functools.cache
def chain(style='quad', **options):
    """A chain of all kinds of leaves, and its update, compiled once."""
    tx = getattr(transforms, f'scale_by_{style}')(
        **{**F32, 'max_size_dense': 16, 'norm_estimator': 'power', **options}
    )
    return tx, jax.jit(tx.update)


def warm(style='quad', **options):
    tx, update = chain(style, **options)
    params = random_tree(TREE)
    state = tx.init(params)
    for t in range(3):
        _, state = update(random_tree(TREE, t), state)
    return update, params, state


NOISE = [{}, {'noise_scale': 0.0}]


@pytest.mark.parametrize('style, options', [('quad', {}), ('skew', {'noise_scale': 0.0})])
def test_zero_gradients_hold_the_factors(style, options):
    update, params, state = warm(style, **options)
    zero = jax.tree.map(jnp.zeros_like, params)
    fresh = chain(style, **options)[0].init(params)
    for start in (state, fresh):
        now = start
        for _ in range(60):
            updates, now = update(zero, now)
        assert same_bits(factors(now), factors(start))
        assert all(np.isfinite(u).all() for u in jax.tree.leaves(updates))
    # A leaf that wakes up is bounded as ever.
    updates, _ = update(random_tree(TREE, 9), now)
    assert all(np.abs(u).max(initial=0.0) < 2.0 for u in jax.tree.leaves(updates))


@pytest.mark.parametrize('style, options', [('quad', {}), ('skew', {'noise_scale': 0.0})])
def test_zero_rows_of_a_diagonal_side_and_zero_blocks_rest(style, options):
    """As embeddings have them: rows that are never looked up keep their factor."""
    update, params, state = warm(style, **options)
    now = state
    for t in range(150):
        grads = random_tree(TREE, t)
        grads['l'] = grads['l'].at[4:].set(0.0)
        grads['v'] = grads['v'].at[2:].set(0.0)
        grads['w'] = grads['w'].at[8:].set(0.0)  # the blocks of the last rows
        _, now = update(grads, now)
    np.testing.assert_array_equal(now.Ql['v'][2:], state.Ql['v'][2:])
    np.testing.assert_array_equal(now.Ql_edge['w'], state.Ql_edge['w'])
    assert not np.array_equal(now.Ql['v'][:2], state.Ql['v'][:2])
    ratio = np.asarray(now.Ql['l'] / state.Ql['l'])[0]
    np.testing.assert_allclose(ratio[4:], ratio[4], rtol=1e-6)  # but for the balancing of step 100
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(now))


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_one_bad_gradient_is_as_if_it_were_missing(bad):
    update, params, state = warm()
    twin, grads = state, random_tree(TREE, 5)
    spoilt = {**grads, 'w': grads['w'].at[3, 3].set(bad), 'v': grads['v'].at[0].set(bad)}
    updates, state = update(spoilt, state)
    missing, twin = update({**grads, 'w': None, 'v': None}, twin)
    assert missing['w'] is None and missing['v'] is None
    assert not updates['w'].any() and not updates['v'].any()
    np.testing.assert_array_equal(updates['l'], missing['l'])
    assert same_bits(state, twin)
    assert np.array_equal(state.leaf_counts, [4, 4, 4, 3, 3])  # l, none, s, v, w
    updates, state = update(grads, state)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((updates, state)))


@pytest.mark.parametrize('options', NOISE)
@pytest.mark.parametrize('size', [1e25, 1e-20])
def test_huge_and_tiny_gradients(size, options):
    update, params, state = warm(**options)
    state = chain(**options)[0].init(params)
    for t in range(80):
        updates, state = update(random_tree(TREE, t, size), state)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((updates, state)))
    rms = {k: float(np.sqrt(np.mean(np.square(u)))) for k, u in updates.items() if u.size}
    assert all(r <= 0.2201 for r in rms.values())
    if size > 1:  # the factors do learn from such gradients
        assert all(float(jnp.max(jnp.abs(state.Ql[k]))) < 0.5 for k in ('w', 'l', 'v'))
    if size > 1 or options:  # noise of 1e-9 drowns gradients of 1e-20
        assert all(r > 0.02 for k, r in rms.items() if k != 's'), rms


@pytest.mark.parametrize('options', NOISE)
def test_growth_without_end_is_bounded(options):
    """Entries that hardly ever see a gradient: no factor leaves the range."""
    update, params, _ = warm(**options)
    state = chain(**options)[0].init(params)
    tiny = jax.tree.map(lambda p: jnp.full(p.shape, 1e-37), params)
    for name in ('w', 'l', 'v'):
        tiny[name] = tiny[name].at[..., :1].set(1.0)
    for _ in range(300):
        updates, state = update(tiny, state)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((updates, state)))


@pytest.mark.parametrize(
    'tree', [{}, {'w': np.zeros((0, 3))}, {'w': optax.MaskedNode(), 'v': np.zeros(0)}]
)
def test_nothing_to_do(tree):
    tx = transforms.scale_by_quad()
    state = tx.init(tree)
    updates, after = jax.jit(tx.update)(tree, state)
    assert jax.tree.structure((updates, after)) == jax.tree.structure((tree, state))


def test_state_that_comes_in_is_left_as_it_was():
    shapes = {'w': (2, 2), 'v': (2,)}
    tx = transforms.scale_by_quad(**EXACT)
    params = random_tree(shapes)
    state = tx.init(params)
    before = jax.tree.map(np.array, state)
    _, new = tx.update(random_tree(shapes, 3), state)  # not jitted
    assert new is not state and same_bits(state, before)
    assert not same_bits(new.Ql, state.Ql)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
def test_dtypes_stay_and_updates_are_the_gradients(dtype):
    params = {k: v.astype(jnp.bfloat16) for k, v in random_tree({'w': (4, 4), 'v': (3,)}).items()}
    params['f'] = jnp.ones((3, 2))
    tx = transforms.quad(0.1, dtype=dtype)
    updates, state = run(tx, params, stacked(params, 5))  # a scan: the carry must not change
    assert jax.tree.map(jnp.result_type, updates) == jax.tree.map(jnp.result_type, params)
    kept = jax.tree.leaves((state[0].mu, state[0].Ql, state[0].Qr))
    assert {x.dtype for x in kept} == {jnp.dtype(dtype)}
    assert {x.dtype for x in jax.tree.leaves(state[0].Ll)} == {jnp.dtype(jnp.float32)}


def test_groups_of_leaves_change_no_draw():
    """Draws depend on a leaf's own path and count, not on what stands beside it."""
    tx, update = chain()
    shapes = {'a': (6, 6), 'w': (6, 6)}
    params, grads = random_tree(shapes), random_tree(shapes, 1)
    together, _ = update(grads, tx.init(params))
    alone, _ = update({'w': grads['w']}, tx.init({'w': params['w']}))
    np.testing.assert_allclose(together['w'], alone['w'], rtol=1e-5, atol=1e-7)
    drawn = [chain(noise_scale=0.1, seed=seed)[1](grads, tx.init(params))[0] for seed in (0, 1)]
    assert np.abs(drawn[0]['w'] - drawn[1]['w']).max() > 1e-3
    grads['a'] = grads['w']
    same, _ = chain(noise_scale=0.1, seed=0)[1](grads, tx.init(params))
    again, _ = chain(noise_scale=0.1, seed=2**32)[1](grads, tx.init(params))  # its lowest 32 bits
    assert all(map(np.array_equal, jax.tree.leaves(same), jax.tree.leaves(again)))
    assert np.abs(same['a'] - same['w']).max() > 1e-3  # leaves have draws of their own


# ---- layers and structure ----------------------------------------------------------------------


@pytest.mark.parametrize('options', [{}, {'update_every': 2}])
def test_a_bad_gradient_holds_up_no_other_leaf_of_its_shape(options):
    tx = transforms.scale_by_quad(**F32, **options)
    params = random_tree({'w': (7, 5), 'v': (7, 5)})
    grads = {k: g[0] for k, g in stacked(params, 1).items()}
    update = jax.jit(tx.update)
    first = tx.init(params)
    (good, after_good), (bad, after_bad) = (
        update({**grads, 'v': v}, first) for v in (grads['v'], grads['v'] * jnp.nan)
    )
    assert same_bits(good['w'], bad['w'])
    assert same_bits([f['w'] for f in factors(after_good)], [f['w'] for f in factors(after_bad)])
    assert not same_bits(after_bad.Ql['w'], first.Ql['w'])
    assert same_bits([f['v'] for f in factors(after_bad)], [f['v'] for f in factors(first)])


@pytest.mark.parametrize('style', STYLES)
def test_a_leaf_alone_steps_as_among_its_like(style):
    tx = getattr(transforms, f'scale_by_{style}')(dtype=None, norm_estimator='power')
    params = random_tree({'w': (40, 24), 'v': (40, 24)})
    grads = stacked(params, 6)
    _, state = run(tx, params, jax.tree.map(lambda g: g[:5], grads))
    last = jax.tree.map(lambda g: g[5], grads)

    own = {name: {'w': getattr(state, name)['w']} for name in state._fields[1:]}
    alone = state._replace(leaf_counts=state.leaf_counts[:1], **own)
    got = jax.jit(tx.update)({'w': last['w']}, alone)[0]['w']
    want = jax.jit(tx.update)(last, state)[0]['w']
    assert np.abs(got - want).max() <= 2e-6 * np.abs(want).max() > 0


def test_scanned_layers_are_prefixes():
    params = random_tree({'w': (3, 4, 5), 'v': (3, 4), 's': ()})
    grads = {k: v[0] for k, v in stacked(params, 1).items()}
    tree = {'w': True, 'v': True, 's': False}
    results = []
    for scanned in (True, tree):
        tx = transforms.quad(0.1, **F32, scanned_layers=scanned, norm_estimator='power')
        state = tx.init(params)
        results.append(tx.update(grads, state, params))
        assert state[0].Ql['w'].shape == (3, 4, 4) and state[0].Ll['v'].shape == (3,)
    assert same_bits(*results)
    assert all(not np.allclose(u, -0.1 * 0.1 * params[k]) for k, u in results[0][0].items())
    nested = {'block': params, 'head': params}
    tx = transforms.quad(0.1, **F32, scanned_layers={'block': True, 'head': False})
    state = tx.init(nested)[0]
    assert state.Ql['block']['w'].shape == (3, 4, 4) and state.Ql['head']['w'].shape == (1, 8, 8)
    nothing_said = transforms.quad(0.1, **F32, scanned_layers={**tree, 's': None})
    marked = transforms.quad(0.1, **F32, scanned_layers=tree)
    assert same_bits(nothing_said.init(params), marked.init(params))
    masked = {**params, 's': optax.MaskedNode()}
    for missing in (None, False, optax.MaskedNode()):
        state = transforms.quad(0.1, **F32, scanned_layers={**tree, 's': missing}).init(masked)[0]
        assert state.Ql['w'].shape == (3, 4, 4)
    with pytest.raises(ValueError, match='scanned_layers'):
        transforms.quad(0.1, scanned_layers={'other': True}).init(params)


def test_state_costs_little():
    def words(shape, **options):
        state = jax.eval_shape(transforms.quad(**options).init, {'w': jnp.zeros(shape)})
        return sum(x.size for x in jax.tree.leaves(state)) / np.prod(shape)

    assert words((16, 8)) <= 4.0
    assert words((1024, 1024)) <= 3.01
    assert words((300, 300)) <= 4.01  # its short blocks have short factors
    assert words((1024, 1024), b1=0.0) <= 2.01
    assert words((20000, 64)) <= 1.1 + 1.0  # a diagonal for the long side, and the average


def test_state_in_the_terms_of_the_original():
    params = random_tree({'w': (10, 6), 'e': (20, 3), 'v': (5,)})
    options = {'block_size': 4, 'max_size_dense': 16, 'dtype': jnp.float32}
    state = transforms.scale_by_quad(**options).init(params)
    views = transforms.leaf_states(state, params, **options)
    w, e, v = views['w'], views['e'], views['v']
    assert [x.kind for x in (w, e, v)] == [
        transforms.DENSE_PATH,
        transforms.LARGE_PATH,
        transforms.ONE_D_PATH,
    ]
    assert (w.nr, w.nc, w.stack, w.merged, w.block_size, w.B) == (3, 2, 6, (10, 6), 4, 1)
    assert list(w.valid_rows) == [4, 4, 4, 4, 2, 2] and list(w.valid_cols) == [4, 2] * 3
    for ql, qr, m, n in zip(w.Ql, w.Qr, w.valid_rows, w.valid_cols, strict=True):
        np.testing.assert_array_equal(ql, np.diag(np.arange(4) < m))
        np.testing.assert_array_equal(qr, np.diag(np.arange(4) < n))
    assert (e.diag_left, e.diag_right, e.Ql.shape, e.Qr.shape) == (True, False, (1, 20), (1, 3, 3))
    assert v.Ql.shape == (1, 5) and v.Qr is None and v.nr is None
    dense = transforms.dense_state(state, params, **options)
    assert (dense.valid_count, dense.block_size, dense.Ql.shape) == (6, 4, (6, 4, 4))


# ---- what users call ---------------------------------------------------------------------------


def test_arguments_are_those_of_eformer():
    names = (
        'learning_rate lr_style b1 weight_decay weight_decay_mask normalize_grads max_size_dense '
        'preconditioner_lr preconditioner_init_scale dtype scanned_layers block_size '
        'pipeline_axis_name pipeline_axis_size params_partition_specs noise_scale'
    ).split()
    defaults = [1e-3, 'adam', 0.95, 0.1, None, False, 16384, 0.7, 1.0, jnp.bfloat16, None, 256]
    defaults += [None, 1, None, 1e-9]
    without = [n for n in names if n != 'learning_rate' and not n.startswith('weight_decay')]
    for style in STYLES:
        parameters = list(inspect.signature(getattr(transforms, style)).parameters.values())
        assert [p.name for p in parameters[: len(names)]] == names
        assert [p.default for p in parameters[: len(names)]] == defaults
        scale = getattr(transforms, f'scale_by_{style}')
        assert list(inspect.signature(scale).parameters)[: len(without)] == without


@pytest.mark.parametrize(
    'options, says',
    [
        ({'lr_style': 'adams'}, "lr_style.*'adam' or None.*'adams'"),
        ({'norm_estimator': 'svd'}, "norm_estimator.*'exact'.*'svd'"),
        ({'dtype': 'float16'}, 'bfloat16, float32.*float16'),
        ({'dtype': 'brief'}, 'bfloat16, float32.*brief'),
        ({'block_size': 0}, 'block_size.*at least 1.*0'),
        ({'update_every': 1.5}, 'update_every.*integer.*1.5'),
        ({'seed': 'x'}, 'seed.*integer'),
        ({'pipeline_axis_size': 2}, 'pipeline_axis_size.*pipeline_axis_name'),
        ({'preconditioner_lr': 2.0}, 'preconditioner_lr.*2.0'),
        ({'noise_scale': -1.0}, 'noise_scale.*-1'),
    ],
)
def test_options_that_are_none_are_refused(options, says):
    for make in (transforms.quad, transforms.scale_by_skew, bo.Quad, bo.Skew):
        with pytest.raises((ValueError, TypeError), match=says):
            make(**options)
    with pytest.raises(TypeError, match='block_sizes.*it takes learning_rate'):
        transforms.quad(block_sizes=3)


def test_specs_have_the_structure_of_the_state():
    params = random_tree(TREE)
    mask = {k: k != 'v' for k in params}
    for options in (
        {},
        {'b1': 0.0, 'weight_decay': 0.0},
        {'weight_decay_mask': mask, 'learning_rate': optax.linear_schedule(0.1, 0.0, 10)},
        {'scanned_layers': True},
        {'pipeline_axis_name': 'pp', 'pipeline_axis_size': 4},
        {'params_partition_specs': {k: None if k == 'v' else SPEC('pp') for k in params}},
    ):
        state = transforms.skew(**options).init(params)
        specs = transforms.get_opt_state_partition_specs(params, **options)
        assert jax.tree.structure(specs) == jax.tree.structure(state), options
        if 'params_partition_specs' in options:
            assert specs[0].mu['w'] == SPEC('pp') and specs[0].mu['v'] == SPEC()
        if 'pipeline_axis_name' in options:
            assert specs[0].Ql['w'] == SPEC('pp') and specs[0].mu['w'] == SPEC()
            assert state[0].Ql['l'].shape[0] % 4 == 0
    with pytest.raises(TypeError, match='blocksize'):
        transforms.get_opt_state_partition_specs(params, blocksize=3)


def test_a_pipeline_axis_needs_a_mesh():
    tx = transforms.quad(pipeline_axis_name='pp', pipeline_axis_size=2)
    params = {'w': jnp.ones((4, 4))}
    with pytest.raises(ValueError, match="'pp'.*on none.*device_put"):
        tx.update(params, tx.init(params), params)


def test_complex_parameters_are_refused():
    with pytest.raises(TypeError, match="'w'.*complex64"):
        transforms.quad().init({'w': jnp.ones(3, jnp.complex64)})


def test_the_class_is_the_chain():
    params = random_tree({'w': (5, 4), 'v': (3,)})
    mask = {'w': True, 'v': False}
    states = {k: ParamState(v) for k, v in params.items()}
    opt = bo.Skew(0.1, dtype='float32', weight_decay=0.5, weight_decay_mask=mask, seed=3)
    opt.register_trainable_weights(states)
    tx = transforms.skew(0.1, weight_decay=0.5, weight_decay_mask=mask, dtype=jnp.float32, seed=3)
    grads = random_tree({'w': (5, 4), 'v': (3,)}, 4)
    # The class has its leaves under the same path.
    updates, _ = tx.update(grads, tx.init(params), params)
    opt.step(grads)
    for k, state in states.items():
        np.testing.assert_allclose(state.value, params[k] + updates[k], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match='b1=0'):
        no_average = bo.Quad(0.1, b1=0.0).register_trainable_weights({'w': ParamState(jnp.ones(2))})
        no_average.b1 = 0.5


@pytest.mark.parametrize('mask', ['x', 3, {'w': 1}])
@pytest.mark.parametrize('cls', [bo.Quad, bo.Skew])
def test_a_mask_that_is_none_is_refused(cls, mask):
    with pytest.raises(ValueError, match=f'{cls.__name__}.*tree of bools.*weight_decay_mask, got'):
        cls(0.1, weight_decay_mask=mask)


def test_the_default_class_saves_and_loads():
    def build():
        return bo.Quad(0.1).register_trainable_weights({'w': ParamState(jnp.ones((4, 3)))})

    opt, grads = build(), {'w': jnp.arange(12.0).reshape(4, 3)}
    opt.step(grads)
    again = build()
    again.load_state_dict(opt.state_dict())
    assert same_bits(again.opt_state.value, opt.opt_state.value)
    brainstate.transform.jit(again.step)(grads)
    opt.step(grads)
    for one, two in zip(*(jax.tree.leaves(o.opt_state.value) for o in (opt, again)), strict=True):
        np.testing.assert_allclose(np.float32(one), np.float32(two), rtol=1e-2)


@pytest.mark.parametrize('every', [1, 3, 5, 8])
def test_both_sides_are_made_even_however_seldom_they_are_updated(every):
    params = random_tree({'w': (3, 12)})
    options = {**F32, 'block_size': 16, 'b1': 0.0, 'norm_estimator': 'exact', 'noise_scale': 0.0}
    tx = transforms.scale_by_quad(update_every=every, **options)
    grads = stacked(params, 205)

    def one(state, g):
        _, state = tx.update(g, state, params)
        return state, [jnp.abs(q['w']).max() for q in (state.Ql, state.Qr)]

    _, (left, right) = jax.lax.scan(one, tx.init(params), grads)
    even = np.flatnonzero(np.isclose(left, right, rtol=1e-5))
    assert even[0] >= 98 + (every > 1)  # counted from 0
    for last in (99, 199):
        assert any(last <= t + 1 < last + max(every, 2) for t in even), even


def test_options_that_were_made_arrays():
    """As optax.inject_hyperparams makes of every number that is not declared static."""
    static = ('dtype', 'block_size', 'max_size_dense', 'pipeline_axis_size')
    params = random_tree({'w': (4, 3)})
    options = {**F32, 'norm_estimator': 'exact', 'noise_scale': 0.0}
    made = optax.inject_hyperparams(transforms.quad, static_args=static)
    injected, tx = made(learning_rate=0.1, **options), transforms.quad(0.1, **options)
    state = injected.init(params)
    got, want = injected.update(params, state, params), tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(got[0]['w'], want[0]['w'], rtol=1e-5)
    with pytest.raises(ValueError, match='update_every to be an integer of at least 1'):
        transforms.quad(0.1, update_every=1.5)
