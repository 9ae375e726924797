"""Muon: which parameters it takes as matrices, and which it leaves to AdamW."""

import re

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate import ParamState
from reference_matrix import muon
from test_matrix import MATRIX, training

import braintools_optim as bo
from braintools_optim.transforms import newton_schulz, scale_by_muon


def test_muon_takes_matrices_only():
    bias = {'layer': {'bias': ParamState(jnp.ones(3))}}
    kernel = {'kernel': ParamState(jnp.ones((2, 2)))}
    with pytest.raises(
        ValueError,
        match=r"'layer\.bias' has the shape \(3,\); leave it.*adamw='rest'.*reshape='last'",
    ):
        bo.Muon().register_trainable_weights(bias)
    opt = bo.Muon().register_trainable_weights(kernel)
    with pytest.raises(ValueError, match=r"'layer\.bias'"):
        opt.add_param_group(bias)
    assert len(opt.param_groups) == len(opt.param_states) == 1
    with pytest.raises(ValueError, match=r"'layer\.bias'.*\(3,\), of which.*\(2, 2\)"):
        bo.Muon(reshape=lambda shape: (2, 2)).register_trainable_weights(bias)


def test_a_parameter_of_a_module_is_named_as_everywhere():
    model = brainstate.nn.Sequential(brainstate.nn.Linear(2, 3), brainstate.nn.Linear(3, 1))
    params = model.states(brainstate.ParamState)
    names = bo.Adam(0.1).register_trainable_weights(params).param_states.names
    with pytest.raises(ValueError, match=re.escape(f"parameter '{names[0]}.bias' has the shape")):
        bo.Muon(0.1).register_trainable_weights(params)


@pytest.mark.parametrize(
    ('reshape', 'shape'),
    [('last', (6, 4)), ('first', (2, 12)), (lambda shape: (shape[1], 8), (3, 8))],
)
def test_muon_of_reshaped_arrays(reshape, shape):
    array = MATRIX.reshape(2, 3, 4)
    got = training(bo.Muon(0.1, reshape=reshape), value=array)
    want = training(bo.Muon(0.1), value=array.reshape(shape))
    for one, other in zip(got, want, strict=True):
        # XLA compiles the rule for another shape: sums may be in another order.
        np.testing.assert_allclose(one.reshape(shape), other, rtol=2e-6)


def rows_first(shape):
    return shape[0], -1 if len(shape) > 2 else shape[1]


def test_muon_with_a_function_is_saved():
    one, other = bo.Muon(0.1, reshape=rows_first), bo.Muon(0.1, reshape=rows_first)
    list(training(one))
    list(training(other, 1))
    assert one.state_dict()['param_groups']['0']['reshape'] == f'{__name__}.rows_first'
    other.load_state_dict(one.state_dict())
    with pytest.raises(bo.IncompatibleCheckpoint, match='reshape'):
        third = bo.Muon(0.1, reshape='last')
        list(training(third, 1))
        third.load_state_dict(one.state_dict())


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'ns_steps': 2.5}, ['ns_steps', '[0, 100)', '2.5']),
        ({'ns_steps': True}, ['ns_steps', 'True']),
        ({'ns_steps': 100}, ['ns_steps', '100']),
        ({'ns_coefficients': (1.0, 2.0)}, ['3 numbers', 'ns_coefficients']),
        ({'adjust_lr_fn': 'adam'}, ['adjust_lr_fn', "'match_rms_adamw'", "'adam'"]),
        ({'reshape': 'flat'}, ['reshape', "'last'", "'flat'"]),
        ({'outputs': 'inputs'}, ['outputs', "'columns'", "'inputs'"]),
        ({'adamw': True}, ['adamw', "'rest'", 'True']),
        ({'adamw_betas': (0.9, 1.0)}, ['adamw_betas', '1.0']),
        ({'adamw_lr_ratio': -1.0}, ['adamw_lr_ratio', '-1.0']),
        ({'ns_dtype': 'int8'}, ['ns_dtype', "'int8'"]),
    ],
)
def test_muon_refuses(options, words):
    with pytest.raises((TypeError, ValueError)) as caught:
        bo.Muon(**options)
    assert [w for w in ('Muon', *words) if w not in str(caught.value)] == []
    opt = bo.Muon().register_trainable_weights({'w': ParamState(jnp.ones((2, 2)))})
    with pytest.raises((TypeError, ValueError), match=words[0]):
        opt.add_param_group({'v': ParamState(jnp.ones((2, 2)))}, **options)


def test_muon_fixes_the_number_of_iterations():
    with pytest.raises(AttributeError, match='ns_steps of Muon is fixed'):
        bo.Muon().ns_steps = 4


@pytest.mark.parametrize('shape', [(6, 4), (4, 6), (0, 3), (1, 1)])
def test_newton_schulz(shape):
    # The tuned coefficients leave the singular values in about [0.68, 1.13].
    matrix = np.resize(MATRIX, shape).astype(np.float32)
    found = newton_schulz(jnp.asarray(matrix), (3.4445, -4.775, 2.0315), 5, 1e-7)
    assert found.shape == shape
    if min(shape) > 1:
        values = np.linalg.svd(found, compute_uv=False)
        assert values.min() > 0.5 and values.max() < 1.3


@pytest.mark.parametrize(('add_eps', 'length'), [(False, 1.0), (True, 0.5)])
def test_newton_schulz_begins_with_a_matrix_of_this_length(add_eps, length):
    matrix = jnp.full((2, 2), 0.5e-3)
    found = newton_schulz(matrix, (1.0, 0.0, 0.0), 1, 1e-3, add_eps=add_eps)
    np.testing.assert_allclose(np.linalg.norm(found), length, rtol=1e-6)


# ---- what it leaves to AdamW ---------------------------------------------------------------------


class Net(brainstate.nn.Module):
    """Layers that keep a matrix and a vector in one State."""

    def __init__(self):
        super().__init__()
        self.first, self.last = brainstate.nn.Linear(4, 8), brainstate.nn.Linear(8, 2)

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))


def test_a_linear_layer_is_trained_whole():
    """Its matrix as by Muon alone, its bias as by AdamW alone."""
    net = Net()
    states = net.states(ParamState)
    start = {path: jax.tree.map(jnp.copy, s.value) for path, s in states.items()}
    opt = bo.Muon(0.02, outputs='columns', adamw='rest', adamw_lr_ratio=0.5, adamw_eps=1e-6)
    opt.register_trainable_weights(states)
    alone = {
        name: {path: ParamState(value[name]) for path, value in start.items()}
        for name in ('weight', 'bias')
    }
    muon = bo.Muon(0.02, outputs='columns').register_trainable_weights(alone['weight'])
    adamw = bo.AdamW(0.01, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.0)
    adamw.register_trainable_weights(alone['bias'])
    x = jnp.ones((3, 4))
    for _ in range(3):
        grads = brainstate.transform.grad(lambda: ((net(x) - 1.0) ** 2).sum(), states)()
        opt.step(grads)
        for name, one in (('weight', muon), ('bias', adamw)):
            one.step({path: g[name] for path, g in grads.items()})
    for path, state in states.items():
        for name in ('weight', 'bias'):
            np.testing.assert_array_equal(state.value[name], alone[name][path].value)
            assert (state.value[name] != start[path][name]).any()


def test_a_group_of_embeddings_is_left_to_adamw():
    table, same = ParamState(jnp.asarray(MATRIX, 'f')), ParamState(jnp.asarray(MATRIX, 'f'))
    opt = bo.Muon(0.02, adamw_weight_decay=0.2)
    opt.register_trainable_weights({'w': ParamState(jnp.ones((2, 2)))})
    opt.add_param_group({'table': table}, adamw='all', lr=0.1)
    adamw = bo.AdamW(0.1, betas=(0.9, 0.95), weight_decay=0.2)
    adamw.register_trainable_weights({'table': same})
    for scale in (1.0, 2.0, -0.5):
        for one in (opt, adamw):
            one.step({'table': jnp.full(MATRIX.shape, scale)})
    np.testing.assert_allclose(table.value, same.value, rtol=1e-6)
    assert {s for s in opt.state_dict()['opt_state']['1']} >= {'mu', 'nu', 'leaf_counts'}


def test_only_what_is_left_to_adamw_has_its_moments():
    params = {'w': ParamState(jnp.ones((4, 4))), 'b': ParamState(jnp.ones(4))}
    opt = bo.Muon(adamw='rest').register_trainable_weights(params)
    assert sum(x.size for x in jax.tree.leaves(opt.opt_state.value)) <= 16 + 2 * 4 + 2


@pytest.mark.parametrize(
    ('reshape', 'left'),
    [
        (None, {'kernel', 'bias', 'scale'}),
        ('last', {'bias', 'scale'}),
        ('first', {'bias', 'scale'}),
        (lambda shape: (2, 12), {'bias', 'scale'}),
        (lambda shape: shape, {'kernel', 'bias', 'scale'}),
    ],
)
def test_vectors_are_no_matrices_though_they_could_be_reshaped(reshape, left):
    shapes = {'kernel': (2, 3, 4), 'matrix': (3, 8), 'bias': (24,), 'scale': ()}
    params = {k: ParamState(jnp.ones(shape)) for k, shape in shapes.items()}
    opt = bo.Muon(adamw='rest', reshape=reshape).register_trainable_weights(params)
    assert set(opt.state_dict()['opt_state']['0']['nu']) == left


def test_a_matrix_of_another_size_is_refused_and_not_left_to_adamw():
    params = {'kernel': ParamState(jnp.ones((2, 3, 4)))}
    opt = bo.Muon(adamw='rest', reshape=lambda shape: (shape[0], -1))
    with pytest.raises(ValueError, match=r"'kernel'.*of which reshape made \(2, -1\)"):
        opt.register_trainable_weights(params)


def test_a_mask_takes_both_decays():
    mask = {'layer': {'w': False, 'v': True, 'b': False, 'c': True}}
    shapes = {'w': (2, 2), 'v': (2, 2), 'b': (2,), 'c': (2,)}
    layer = ParamState({k: jnp.ones(shape) for k, shape in shapes.items()})
    opt = bo.Muon(0.1, 0.5, adamw='rest', adamw_weight_decay=0.2, decay_mask=mask)
    opt.register_trainable_weights({'layer': layer})
    opt.step({'layer': {k: jnp.zeros(shape) for k, shape in shapes.items()}})
    for name, left in {'w': 1.0, 'v': 0.95, 'b': 1.0, 'c': 0.98}.items():
        np.testing.assert_allclose(layer.value[name], left, rtol=1e-6)


@pytest.mark.parametrize('shape', [(6, 4), (4, 6)])
@pytest.mark.parametrize('outputs', ['rows', 'columns'])
def test_the_outputs_are_where_one_says(shape, outputs, x64):
    value = MATRIX.reshape(shape)
    grads = np.random.default_rng(3).normal(size=shape)  # as `training` has them
    want = muon(value, grads, {}, lr=0.1, outputs=outputs)
    opt = bo.Muon(0.1, outputs=outputs)
    got = next(training(opt, value=value, dtype=jnp.float64))
    np.testing.assert_allclose(got, want, rtol=1e-9)
    with pytest.raises(ValueError, match=r"one of \('rows', 'columns'\) for outputs, got 'left'"):
        scale_by_muon(outputs='left')


def test_a_layer_in_the_layout_of_torch_is_updated_as_its_transpose():
    theirs = training(bo.Muon(0.1), value=np.eye(6)[:, :4])
    ours = bo.Muon(0.1, outputs='columns')
    w = ParamState(jnp.eye(6)[:, :4].T)
    ours.register_trainable_weights({'w': w})
    rng = np.random.default_rng(3)
    for value in theirs:
        ours.step({'w': jnp.asarray(rng.normal(size=(6, 4)), 'f').T})
        np.testing.assert_allclose(w.value.T, value, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize('cls', [bo.Muon, bo.Mars])
def test_a_dtype_to_compute_in_is_given_as_any_other(cls):
    assert cls(ns_dtype=jnp.bfloat16).ns_dtype == cls(ns_dtype='bfloat16').ns_dtype == 'bfloat16'
    with pytest.raises(ValueError, match="for ns_dtype, got 'int8'"):
        cls(ns_dtype=jnp.int8)
