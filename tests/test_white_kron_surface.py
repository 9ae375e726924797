"""Quad and Skew as users call them: arguments, specs, masks, saving."""

import inspect

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from brainstate import ParamState
from white_kron_trees import F32, STYLES, TREE, random_tree, same_bits, stacked

import braintools_optim as bo
from braintools_optim import transforms

SPEC = jax.sharding.PartitionSpec


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
        ({'lr_style': 'adams'}, "needs 'adam' or None for lr_style, got 'adams'"),
        ({'norm_estimator': 'svd'}, "'exact'.* for norm_estimator, got 'svd'"),
        ({'dtype': 'float16'}, 'bfloat16, float32.*float16'),
        ({'dtype': 'brief'}, 'bfloat16, float32.*brief'),
        ({'dtype': {'w': 'float32'}}, 'bfloat16, float32.*w'),
        ({'b1': np.ones(2)}, r'for b1, got array\(\[1., 1.\]\)'),
        ({'noise_scale': 10**400}, 'for noise_scale, got 1000'),
        ({'block_size': 0}, 'an integer >= 1 for block_size, got 0'),
        ({'update_every': 1.5}, 'an integer >= 1 for update_every, got 1.5'),
        ({'seed': 'x'}, "an integer for seed, got 'x'"),
        ({'pipeline_axis_size': 2}, 'pipeline_axis_name. for pipeline_axis_size'),
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
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
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


def test_any_precision_of_products_is_taken():
    for precision in ('highest', jax.lax.Precision.HIGH, ('high', 'default')):
        assert bo.Quad(0.1, precision=precision).precision == precision
    for wrong in ('x', -1):
        with pytest.raises(ValueError, match=f'takes for it for precision, got {wrong!r}'):
            bo.Quad(0.1, precision=wrong)


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
    with pytest.raises(ValueError, match='an integer >= 1 for update_every'):
        transforms.quad(0.1, update_every=1.5)
