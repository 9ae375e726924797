"""Quad and Skew: their rule in float64, their robustness, their state, and what users call."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference_white_kron as rules
from cases_white_kron import EXACT
from white_kron_trees import F32, STYLES, TREE, random_tree, same_bits, stacked

from braintools_optim import transforms


def run(tx, params, grads, steps=None):
    """Scan over stacked gradients (or zeros for None); return updates and the state."""

    def one(state, g):
        updates, state = tx.update(g, state, params)
        return state, updates

    return jax.jit(lambda s, g: jax.lax.scan(one, s, g, steps)[::-1])(tx.init(params), grads)


def factors(state):
    return [getattr(state, k) for k in ('Ql', 'Qr', 'Ql_edge', 'Qr_edge', 'Ll', 'Lr')]


# ---- the rule -----------------------------------------------------------------------------------

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


# ---- robustness ---------------------------------------------------------------------------------


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


# ---- layers and structure -----------------------------------------------------------------------


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
        results.append(jax.jit(tx.update)(grads, state, params))
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
