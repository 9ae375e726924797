"""MARS: recorded runs of eformer, the authors and pytorch_optimizer, and what went wrong there."""

import copy

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from brainstate import ParamState
from looking import assert_trees_close
from recorded import GOLDEN, LEAVES, off_by, problem, replay_chain, replay_optimizer

import braintools_optim as bo
from braintools_optim.transforms import ScaleByMarsState, mars, scale_by_mars

AUTHORS = {'b1': 0.95, 'b2': 0.99, 'gamma': 0.025}
EFORMER = {
    'default': ({}, 5e-5),
    'official_hp': (AUTHORS, 5e-5),
    'gamma0': ({**AUTHORS, 'gamma': 0.0}, 5e-5),
    'epsroot': ({**AUTHORS, 'eps': 1e-6, 'eps_root': 1e-4}, 5e-5),
    'clip_global': ({**AUTHORS, 'max_grad_norm': 1.0}, 5e-5),
    'mu_bf16': ({**AUTHORS, 'mu_dtype': jnp.bfloat16}, 1e-2),
    'schedule': ({**AUTHORS, 'learning_rate': optax.linear_schedule(0.01, 0.001, 20)}, 5e-5),
}


@pytest.mark.parametrize('name', EFORMER)
def test_runs_of_eformer(name):
    options, tolerance = EFORMER[name]
    trajectory, (state, *_) = replay_chain(mars(**{'learning_rate': 0.01, **options}))
    deviation = off_by(trajectory, f'mars_eformer_{name}')
    assert max(deviation.values()) <= tolerance, deviation
    assert isinstance(state, ScaleByMarsState) and state.count == 30
    for k, g in problem('grads').items():
        np.testing.assert_array_equal(state.mog[k], g[-1].astype(state.mog[k].dtype))


@pytest.mark.parametrize('how', ['chain', 'class'])
def test_run_of_eformer_in_bfloat16(how):
    # Theirs computes partly in bfloat16. One unit in the last place of a parameter is up to 0.023
    # of how far it came here, so no entry may be off by more than that one, and few by it.
    if how == 'chain':
        trajectory, _ = replay_chain(mars(0.01, **AUTHORS, mu_dtype=jnp.float32), jnp.bfloat16)
    else:
        opt = bo.Mars(0.01, clip=None, optimize_1d=True, state_dtype=jnp.float32)
        trajectory = replay_optimizer(opt, jnp.bfloat16)
    file = np.load(GOLDEN / 'mars_eformer_bf16params.npz')
    start, differ = problem('params0', jnp.bfloat16), []
    for k in LEAVES:
        ours, theirs = np.float32(trajectory[k]), file[f'params/{k}']
        size = np.maximum.accumulate(np.abs(theirs))  # what was off once stays so
        size = np.maximum(size, np.abs(np.float32(start[k])))
        place = np.exp2(np.floor(np.log2(size)) - 7)
        assert (np.abs(ours - theirs) <= place).all(), k
        differ.append((ours != theirs).ravel())
    assert np.concatenate(differ).mean() < 0.05


OFFICIAL = {
    **{'lr': 0.01, 'betas': (0.95, 0.99), 'gamma': 0.025, 'weight_decay': 0.1, 'lr_1d': 0.005},
    **{'betas_1d': (0.9, 0.95), 'weight_decay_1d': 0.1},
}
RUNS = {
    'official_adamw_adam1d': ({}, 5e-5),
    'official_adamw_opt1d': ({'optimize_1d': True}, 5e-5),
    'official_adamw_amsgrad': ({'optimize_1d': True, 'amsgrad': True}, 5e-5),
    'official_adamw_exact': ({'optimize_1d': True, 'exact': True}, 5e-5),
    'official_lion_adam1d': ({'variant': 'lion', 'lr': 0.001}, 5e-5),
    'official_lion_opt1d': ({'variant': 'lion', 'lr': 0.001, 'optimize_1d': True}, 5e-5),
    'official_shampoo_adam1d': ({'variant': 'shampoo'}, 3e-2),
    'official_shampoo_opt1d': ({'variant': 'shampoo', 'optimize_1d': True}, 3e-2),
    'pytorchoptimizer_adamw': ({'higher_rank': True}, 5e-5),
}


@pytest.mark.parametrize('name', RUNS)
def test_runs_of_the_authors(name):
    options, tolerance = RUNS[name]
    before = problem('grads_prevpoint')

    def extra(t):
        if 'exact' not in options:
            return {}
        return {'previous_point_grads': {k: g[t] for k, g in before.items()} if t else None}

    deviation = off_by(replay_optimizer(bo.Mars(**OFFICIAL | options), extra=extra), f'mars_{name}')
    assert max(deviation.values()) <= tolerance, deviation
    if tolerance > 1e-4:  # what is no matrix is not orthogonalized
        assert max(deviation[k] for k in 'bts') <= 5e-5, deviation


# ---- what it is without correction -------------------------------------------------------------

PARAMS = {'w': np.full((3, 2), 0.5), 'v': np.array([1.0, -2.0, 0.1]), 's': np.array(3.0)}


def grads_at(t, dtype=float):
    rng = np.random.default_rng([3, t])
    return {k: jnp.asarray(rng.normal(size=p.shape), dtype) for k, p in PARAMS.items()}


def run(tx, steps=5, dtype=float, grads=grads_at):
    """The updates of each step, and the state."""
    params = {k: jnp.asarray(p, dtype) for k, p in PARAMS.items()}
    state, made = tx.init(params), []
    for t in range(steps):
        updates, state = tx.update(grads(t), state, params)
        made.append(updates)
    return made, state


def states_of(params):
    return {k: ParamState(jnp.asarray(p)) for k, p in params.items()}


def test_without_gamma_it_is_adam(x64):
    ours, _ = run(scale_by_mars(gamma=0.0, eps_root=1e-3))
    adam, _ = run(optax.scale_by_adam(eps_root=1e-3))
    assert_trees_close(ours, adam, rtol=1e-12)
    params = [states_of(PARAMS) for _ in range(2)]
    both = [
        bo.Mars(0.1, (0.9, 0.99), 0.0, clip=None, optimize_1d=True, weight_decay=0.1),
        bo.AdamW(0.1, (0.9, 0.99), weight_decay=0.1),
    ]
    for opt, p in zip(both, params, strict=True):
        opt.register_trainable_weights(p)
        for t in range(5):
            opt.step(grads_at(t))
    one, other = ({k: p.value for k, p in each.items()} for each in params)
    assert_trees_close(one, other, rtol=1e-12)


def test_first_step_without_correction(x64):
    plain, _ = run(scale_by_mars(gamma=0.0), 1)
    first, state = run(scale_by_mars(gamma=0.5, first_step_correction=False), 1)
    assert_trees_close(first, plain, rtol=1e-12)
    corrected, longer = run(scale_by_mars(gamma=0.5), 1)
    assert_trees_close(longer.mu, jax.tree.map(lambda m: 5.5 * m, state.mu), rtol=1e-12)


def test_gamma_as_a_schedule(x64):
    def falling(step):
        return 0.5 / (1.0 + step)

    got, _ = run(scale_by_mars(gamma=falling), 3)
    state, want = scale_by_mars().init({k: jnp.asarray(p) for k, p in PARAMS.items()}), []
    for t in range(3):
        updates, state = scale_by_mars(gamma=0.5 / (1 + t)).update(grads_at(t), state)
        want.append(updates)
    assert_trees_close(got, want, rtol=1e-12)


def test_its_numbers_can_be_injected():
    tx = optax.inject_hyperparams(mars, static_args='mask')(0.01, gamma=0.1, weight_decay=0.3)
    params = {k: jnp.asarray(p) for k, p in PARAMS.items()}
    state = tx.init(params)
    assert {'b1', 'b2', 'gamma', 'max_grad_norm', 'weight_decay'} <= set(state.hyperparams)
    state.hyperparams['gamma'] = jnp.asarray(0.5)
    ours, theirs = mars(0.01, gamma=0.5, weight_decay=0.3), tx.update(grads_at(0), state, params)[0]
    want, _ = ours.update(grads_at(0), ours.init(params), params)
    assert_trees_close(theirs, want, rtol=1e-6)


# ---- what went wrong in the originals ----------------------------------------------------------


@pytest.mark.parametrize('options', [{}, {'mu_dtype': jnp.bfloat16}, {'amsgrad': True}])
@pytest.mark.parametrize('variant', ['adamw', 'lion', 'shampoo'])
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
def test_the_state_can_be_carried(variant, options, dtype):
    tx = scale_by_mars(variant=variant, **options)
    params = {k: jnp.asarray(p, dtype) for k, p in PARAMS.items()}

    def one(state, g):
        updates, state = tx.update(g, state)
        return state, updates

    grads = jax.tree.map(lambda *g: jnp.stack(g), *(grads_at(t, dtype) for t in range(3)))
    first = jax.eval_shape(tx.init, params)
    state, _ = jax.eval_shape(lambda p, g: jax.lax.scan(one, tx.init(p), g), params, grads)
    assert jax.tree.leaves(state) == jax.tree.leaves(first)
    kinds = {x.dtype for x in jax.tree.leaves((first.mu, first.mog))}
    assert kinds == {jnp.dtype(options.get('mu_dtype', dtype))}  # inherited where not given
    assert {x.dtype for x in jax.tree.leaves(first.nu)} <= {jnp.dtype(jnp.float32)}


def test_a_missing_gradient_rests(x64):
    tx = mars(0.1, weight_decay=0.1)
    params = {k: jnp.asarray(p) for k, p in PARAMS.items()}
    _, state = run(tx, 2)
    updates, (after, *_) = tx.update({**grads_at(2), 'v': None}, state, params)
    assert updates['v'] is None and np.isfinite(updates['w']).all()
    for field in ('mu', 'nu', 'mog'):
        before, new = getattr(state[0], field), getattr(after, field)
        np.testing.assert_array_equal(new['v'], before['v'])
        assert (new['w'] != before['w']).any()


def test_the_bound_of_the_norm(x64):
    def norms(**options):
        _, state = run(scale_by_mars(0.0, gamma=0.0, **options), 1)
        each = {k: float(jnp.linalg.norm(m)) for k, m in state.mu.items()}
        return each, float(optax.tree.norm(state.mu))

    free, whole = norms()
    assert whole > 0.5 and min(free.values()) > 0.2
    _, bounded = norms(max_grad_norm=0.5)
    assert bounded == pytest.approx(0.5, rel=1e-5)
    each, _ = norms(max_grad_norm=0.2, clip='per_tensor')
    assert each == pytest.approx(dict.fromkeys(PARAMS, 0.2), rel=1e-12)
    assert norms(max_grad_norm=0.2, clip=None) == (free, whole)
    for clip in ('global', 'per_tensor'):
        assert norms(max_grad_norm=np.inf, clip=clip) == (free, whole)
    traced = jax.jit(lambda b: run(scale_by_mars(0.0, gamma=0.0, max_grad_norm=b), 1)[1].mu)
    assert optax.tree.norm(traced(0.5)) == pytest.approx(0.5, rel=1e-5)
    assert optax.tree.norm(traced(0.0)) == pytest.approx(whole, rel=1e-12)  # no bound
    zero = run(
        scale_by_mars(max_grad_norm=1.0, clip='per_tensor'),
        grads=lambda t: jax.tree.map(jnp.zeros_like, grads_at(t)),
    )
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(zero))


def test_the_last_gradient_is_a_copy():
    tx = scale_by_mars()
    buffer = np.ones(1000, np.float32)
    state = tx.init({'w': jnp.zeros(1000)})
    _, state = tx.update({'w': buffer}, state)
    buffer[:] = 7.0  # as torch's zero_grad(set_to_none=False) does
    np.testing.assert_array_equal(state.mog['w'], np.ones(1000))
    g = jnp.full(1000, 2.0)
    _, state = tx.update({'w': g}, state)
    g.delete()
    np.testing.assert_array_equal(state.mog['w'], np.full(1000, 2.0))


def test_float64(x64):
    _, state = run(scale_by_mars(), 1)
    assert {x.dtype.name for x in jax.tree.leaves((state.mu, state.nu, state.mog))} == {'float64'}


def test_complex_gradients_have_real_squares():
    params = {'z': jnp.zeros(3, jnp.complex64)}
    g = {'z': jnp.array([3 + 4j, 1j, -2.0])}
    updates, state = scale_by_mars(gamma=0.0, mu_dtype=jnp.bfloat16).update(
        g, scale_by_mars(gamma=0.0, mu_dtype=jnp.bfloat16).init(params)
    )
    np.testing.assert_allclose(updates['z'], g['z'] / np.abs(g['z']), rtol=1e-5)
    assert state.nu['z'].dtype == jnp.float32 and state.mu['z'].dtype == jnp.complex64
    p = ParamState(params['z'])
    opt = bo.Mars(0.1, gamma=0.0, lr_1d=0.1).register_trainable_weights({'z': p})
    opt.step(g)  # a complex vector is no matrix of pairs
    np.testing.assert_allclose(p.value, -0.1 * g['z'] / np.abs(g['z']), rtol=1e-5)
    with pytest.raises(TypeError, match="'z' is complex64"):
        bo.Mars(variant='shampoo').register_trainable_weights({'z': ParamState(params['z'])})


# ---- what it keeps -----------------------------------------------------------------------------


def kept(**options):
    """How many numbers the state has for a matrix of 100, and for a vector of 1000."""
    params = {'w': ParamState(jnp.ones((10, 10))), 'v': ParamState(jnp.ones(1000))}
    opt = bo.Mars(**options).register_trainable_weights(params)
    slots = opt.state_dict()['opt_state']['0'].values()
    arrays = [s for s in slots if any(isinstance(x, np.ndarray) for x in s.values())]
    return tuple(sum(s[k].size for s in arrays) for k in 'wv')


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({}, (3, 2)),
        ({'optimize_1d': True}, (3, 3)),
        ({'amsgrad': True}, (4, 3)),
        ({'exact': True}, (2, 2)),
        ({'variant': 'lion'}, (2, 2)),
        ({'variant': 'lion', 'optimize_1d': True, 'exact': True}, (1, 1)),
        ({'variant': 'shampoo'}, (2, 2)),
        ({'variant': 'shampoo', 'optimize_1d': True}, (2, 3)),
    ],
)
def test_state_of_each_parameter(options, words):
    assert kept(**options) == (100 * words[0], 1000 * words[1])


def test_names_of_the_state():
    _, state = run(mars(0.1), 3, jnp.float32)
    count, mu, nu, mog = state[0]
    assert state[0]._fields == ('count', 'mu', 'nu', 'mog') and count.shape == () and count == 3
    assert optax.tree_utils.tree_get(state, 'count') == 3
    assert jax.tree.structure(mu) == jax.tree.structure(nu) == jax.tree.structure(mog)


def test_narrow_moments_of_the_class():
    opt = bo.Mars(mu_dtype=jnp.bfloat16).register_trainable_weights(states_of(PARAMS))
    opt.step(grads_at(0, jnp.float32))
    kinds = {
        name: {str(x.dtype) for x in slot.values()}
        for name, slot in opt.state_dict()['opt_state']['0'].items()
        if not name.endswith('leaf_counts')
    }
    assert kinds == {'mu': {'bfloat16'}, 'mog': {'bfloat16'}, 'nu': {'float32'}}


# ---- the class ---------------------------------------------------------------------------------


def test_exact_is_a_flag():
    with pytest.raises(TypeError, match='Mars needs True or False for exact, got Array'):
        bo.Mars(exact=jnp.ones(2))


def test_exact_mode_needs_the_other_gradients():
    params = states_of(PARAMS)
    opt = bo.Mars(exact=True).register_trainable_weights(params)
    before = {k: np.asarray(p.value) for k, p in params.items()}
    with pytest.raises(TypeError, match='needs previous_point_grads.*None in the first step'):
        opt.step(grads_at(0, jnp.float32))
    assert_trees_close({k: p.value for k, p in params.items()}, before, rtol=0)
    opt.update(grads_at(0, jnp.float32), previous_point_grads=None)
    grads = grads_at(1, jnp.float32)
    for name in ('previous_point_grad', 'prev_point_grads'):
        tx = bo.transforms.scale_by_mars(exact=True)
        with pytest.raises(TypeError, match=f'no {name!r}.*are previous_point_grads'):
            tx.update(grads, tx.init(grads), **{name: grads})
    with pytest.raises(ValueError, match="'w' must have the shape"):
        opt.step(grads_at(1, jnp.float32), previous_point_grads={'w': jnp.ones(2)})
    with pytest.raises(KeyError, match='nobody'):
        opt.step(grads_at(1, jnp.float32), previous_point_grads={'nobody': jnp.ones(2)})


def test_the_other_gradients_go_the_way_of_the_gradients(x64):
    """Given the last gradients it is what remembers them: groups, clipping, maximize."""
    common = {'optimize_1d': True, 'grad_clip_norm': 1.0, 'grad_clip_value': 0.4}
    results = []
    for exact in (False, True):
        params = states_of(PARAMS)
        opt = bo.Mars(0.1, gamma=0.3, exact=exact, **common)
        opt.register_trainable_weights({'w': params['w'], 's': params['s']})
        opt.add_param_group({'v': params['v']}, maximize=True)
        for t in range(4):
            last = grads_at(t - 1) if t else None
            opt.step(grads_at(t), **({'previous_point_grads': last} if exact else {}))
        results.append({k: p.value for k, p in params.items()})
    assert_trees_close(results[1], results[0], rtol=1e-12)


def test_other_gradients_that_are_absent_are_zero(x64):
    results = []
    for previous in ({**grads_at(0), 's': None}, {**grads_at(0), 's': jnp.zeros(())}):
        params = states_of(PARAMS)
        opt = bo.Mars(0.1, exact=True, optimize_1d=True).register_trainable_weights(params)
        opt.step(grads_at(0), previous_point_grads=None)
        opt.step({**grads_at(1), 'v': None}, previous_point_grads=previous)
        results.append({k: p.value for k, p in params.items()})
    assert_trees_close(results[0], results[1], rtol=1e-12)


@pytest.mark.parametrize('how', ['eager', 'jit'])
def test_learning_rate_of_the_others_follows_the_schedule(how):
    """Adam's first steps are as long as its learning rate."""
    params = states_of(PARAMS)
    schedule = bo.StepLR(0.2, step_size=1, gamma=0.5)
    opt = bo.Mars(schedule, lr_1d=0.05, weight_decay_1d=0.0, eps=0.0)
    opt.register_trainable_weights({'v': params['v']})
    opt.add_param_group({'s': params['s']}, lr=0.4)
    take = opt.step if how == 'eager' else brainstate.transform.jit(opt.step)
    g = {k: jnp.ones(PARAMS[k].shape) for k in 'vs'}
    for factor in (1.0, 0.5, 0.25):
        before = {k: params[k].value for k in 'vs'}
        take(g)
        np.testing.assert_allclose(before['v'] - params['v'].value, 0.05 * factor, rtol=1e-4)
        np.testing.assert_allclose(before['s'] - params['s'].value, 0.1 * factor, rtol=1e-4)
        opt.lr.step()
    opt.lr_1d = 0.025
    before = params['v'].value
    take(g)
    np.testing.assert_allclose(before - params['v'].value, 0.025 / 8, rtol=1e-3)


def test_learning_rate_of_the_others_is_resumed():
    """A run that was built with another learning rate goes on with what was saved."""
    opt = bo.Mars(0.2, lr_1d=0.05).register_trainable_weights(states_of(PARAMS))
    other = bo.Mars(0.1, lr_1d=0.05).register_trainable_weights(states_of(PARAMS))
    other.load_state_dict(opt.state_dict())
    assert other.lr_ref == pytest.approx(0.2)
    assert copy.deepcopy(other).lr_ref == pytest.approx(0.2)


@pytest.mark.parametrize('mask', [{'w': False, 'v': True, 's': True}, None])
@pytest.mark.parametrize('optimize_1d', [False, True])
def test_weight_decay_where_the_mask_says(mask, optimize_1d):
    mask = mask or (lambda params: {k: k != 'w' for k in params})
    params = states_of(PARAMS)
    opt = bo.Mars(
        *(0.1,),
        lr_1d=0.1,
        weight_decay=0.5,
        weight_decay_1d=0.5,
        optimize_1d=optimize_1d,
        mask=mask,
    )
    opt.register_trainable_weights(params).step(jax.tree.map(np.zeros_like, PARAMS))
    np.testing.assert_allclose(params['w'].value, PARAMS['w'])
    for k in 'vs':
        np.testing.assert_allclose(params[k].value, 0.95 * PARAMS[k], rtol=1e-6)
    opt.step({'v': jnp.zeros(3), 'w': None, 's': None})  # the mask is of what is there
    np.testing.assert_allclose(params['v'].value, 0.95**2 * PARAMS['v'], rtol=1e-6)
    np.testing.assert_allclose(params['s'].value, 0.95 * PARAMS['s'], rtol=1e-6)


def test_groups_may_differ_in_kind():
    params = states_of(PARAMS)
    opt = bo.Mars(0.1).register_trainable_weights({'w': params['w']})
    opt.add_param_group({'v': params['v']}, variant='lion', optimize_1d=True, gamma=0.5)
    opt.step({'w': jnp.ones((3, 2)), 'v': jnp.array([2.0, -3.0, 1.0])})
    np.testing.assert_allclose(PARAMS['v'] - params['v'].value, [0.1, -0.1, 0.1], rtol=1e-5)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'variant': 'adam'}, ['variant', "'shampoo'", "'adam'"]),
        ({'clip': 'local'}, ['clip', "'per_tensor'", "'local'"]),
        ({'ns_dtype': 'int8'}, ['ns_dtype', "'bfloat16'", "'int8'"]),
        ({'lr': 0.0}, ['lr_ref > 0', 'optimize_1d=True']),
        ({'mask': 3}, ['mask', 'tree of bools', '3']),
        ({'gamma': 'x'}, ['gamma', "'x'"]),
        ({'gamma': -0.1}, ['gamma in [0, inf)', '-0.1']),
    ],
)
def test_what_is_refused(options, words):
    with pytest.raises((TypeError, ValueError)) as caught:
        bo.Mars(**options)
    assert [w for w in ('Mars', *words) if w not in str(caught.value)] == []
    if 'variant' in options or 'clip' in options:
        with pytest.raises(ValueError, match='scale_by_mars needs one of'):
            scale_by_mars(**options)


def test_update_takes_what_step_takes():
    ends = []
    for name in ('step', 'update'):
        w = ParamState(jnp.ones((3, 2)))
        opt = bo.Mars(0.1, exact=True).register_trainable_weights({'w': w})
        getattr(opt, name)({'w': jnp.full((3, 2), 0.5)}, {'w': jnp.full((3, 2), 0.2)})
        ends.append(w.value)
    np.testing.assert_array_equal(*ends)
    assert (ends[0] != 1.0).all()


@pytest.mark.parametrize('exact', [True, False])
@pytest.mark.parametrize('jit', [True, False])
def test_other_gradients_that_are_not_finite_are_left_out(exact, jit):
    w, good = ParamState(jnp.ones((3, 2))), {'w': jnp.full((3, 2), 0.5)}
    opt = bo.Mars(0.1, exact=exact, skip_nonfinite=True).register_trainable_weights({'w': w})
    step = brainstate.transform.jit(opt.step) if jit else opt.step
    step(good, good)
    before = copy.deepcopy(w.value), opt.state_dict()['opt_state']
    step(good, {'w': good['w'].at[0, 0].set(jnp.nan)})
    jax.tree.map(np.testing.assert_array_equal, (w.value, opt.state_dict()['opt_state']), before)
    step(good, good)
    assert (w.value != before[0]).all()
