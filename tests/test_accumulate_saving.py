"""Adding up gradients: checkpoints and copies between two updates, and what is refused."""

import copy

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from added_up import drawn, pair, state_of
from brainstate import ParamState
from brainstate.transform import for_loop
from cases import (
    stacked_grads,
)
from looking import (
    assert_close,
    assert_same,
    values_of,
)

import braintools_optim as bo


def test_a_run_resumes_between_two_updates(tmp_path):
    grads = drawn(8)
    params, opt = pair(accumulate_steps=3)
    for g in grads[:4]:
        opt.step(g)
    opt.save(tmp_path / 'run', params=True)
    twin = copy.deepcopy(opt)
    others, other = pair(accumulate_steps=3)
    other.load(tmp_path / 'run')
    assert_same(state_of(other, others), state_of(opt, params))
    for g in grads[4:]:
        opt.step(g), other.step(g)
    assert_same(state_of(other, others), state_of(opt, params))
    assert twin.step_count.value == 4 and opt.step_count.value == 8


def test_another_number_of_steps_is_refused():
    _, opt = pair(accumulate_steps=2)
    for g in drawn(3):
        opt.step(g)
    saved = opt.state_dict()
    for steps in (1, 3):
        _, other = pair(accumulate_steps=steps)
        with pytest.raises(bo.IncompatibleCheckpoint) as error:
            other.load_state_dict(saved)
        line = f'accumulate_steps was 2, here it is {steps}, and 3 steps are no multiple of both'
        assert line in str(error.value)
    opt.step(drawn(1)[0])
    _, other = pair(accumulate_steps=3)  # nothing waits, but here an update would come too early
    with pytest.raises(
        bo.IncompatibleCheckpoint,
        match='and 4 steps are no multiple of both: take some more with 2',
    ):
        other.load_state_dict(opt.state_dict(), strict=False)
    for wrong in (0, -1, 'x', True, 2.0):
        with pytest.raises(bo.IncompatibleCheckpoint, match='accumulate_steps must be a count'):
            opt.load_state_dict({**saved, 'accumulate_steps': wrong})
    _, other = pair(accumulate_steps=2)
    with pytest.raises(bo.IncompatibleCheckpoint, match='leaf_added must be counts'):
        saved['opt_state']['0']['leaf_added'] = {'w': -1}
        other.load_state_dict(saved)


def test_where_no_gradient_waits_it_may_change(tmp_path):
    params, opt = pair(accumulate_steps=2)
    for g in drawn(6):
        opt.step(g)
    opt.save(tmp_path / 'run', params=True)
    for steps in (1, 3):
        others, other = pair(accumulate_steps=steps)
        line = f'accumulate_steps was 2, here it is {steps}'
        with pytest.raises(bo.IncompatibleCheckpoint, match=line):
            other.load(tmp_path / 'run')
        report = other.load(tmp_path / 'run', strict=False)
        assert line in report.unexpected
        assert_close(values_of(others), values_of(params))
        twins, twin = pair()
        twin.load(tmp_path / 'run', strict=False)
        other.step(drawn(1)[0])
        for _ in range(steps - 1):
            other.step(drawn(1)[0])
        twin.step(drawn(1)[0])
        assert_close(values_of(others), values_of(twins), rtol=1e-6)


def test_one_that_does_not_add_up_writes_what_it_always_wrote():
    _, opt = pair()
    assert 'accumulate_steps' not in opt.state_dict()
    assert {'gradients', 'leaf_added'}.isdisjoint(opt.state_dict()['opt_state']['0'])


def test_it_is_fixed_and_shown():
    _, opt = pair(accumulate_steps=4)
    assert opt.accumulate_steps == 4 and bo.Adam().accumulate_steps == 1
    assert 'accumulate_steps=4' in repr(opt)
    assert 'accumulate_steps=4' in repr(bo.Adam(accumulate_steps=4))
    assert 'accumulate_steps' not in repr(bo.Adam())
    with pytest.raises(AttributeError, match='accumulate_steps of AdamW is fixed'):
        opt.accumulate_steps = 2
    with pytest.raises(TypeError, match='option of the whole optimizer'):
        opt.add_param_group({'x': ParamState(jnp.ones(2))}, accumulate_steps=2)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: bo.Adam(accumulate_steps=0), r'integer >= 1 for accumulate_steps, got 0'),
        (lambda: bo.Adam(accumulate_steps=2**31), r'below 2\*\*31 for accumulate_steps, got 21'),
        (lambda: bo.Adam(accumulate_steps=2.0), r'integer >= 1 for accumulate_steps, got 2.0'),
        (lambda: bo.Adam(accumulate_steps=True), r'integer >= 1 for accumulate_steps, got True'),
        (lambda: bo.SparseAdam(accumulate_steps=2), 'SparseAdam takes no accumulate_steps: grad'),
        (lambda: bo.Mars(exact=True, accumulate_steps=2), 'two gradients in each step. Give step'),
        (lambda: bo.LBFGS(accumulate_steps=2), 'LBFGS takes no accumulate_steps: its history'),
        (
            lambda: bo.Lookahead(bo.SparseAdam(), accumulate_steps=2),
            'Lookahead takes no accumulate_steps: gradients of other rows',
        ),
        (lambda: pair(accumulate_steps=2)[1].tx, 'wrap opt.tx in optax.MultiSteps'),
        (
            lambda: pair(accumulate_steps=2)[1].step(drawn(1)[0], value=1.0),
            'adds up the gradients of 2 steps, and takes nothing besides, got value',
        ),
        (
            lambda: bo.Adam(gradient_accumulation_steps=4),
            "Did you mean 'accumulate_steps'?",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_a_model_of_brainstate_as_with_a_large_batch():
    brainstate.random.seed(0)
    net = brainstate.nn.Linear(3, 2)
    twin = copy.deepcopy(net)
    x, y = brainstate.random.normal(size=(8, 3)), brainstate.random.normal(size=(8, 2))

    def step_of(model, **options):
        weights = model.states(brainstate.ParamState)
        opt = bo.AdamW(1e-2, grad_clip_norm=0.1, **options).register_trainable_weights(weights)
        return bo.train_step(model, opt, lambda x, y: jnp.mean((model(x) - y) ** 2))

    small, large = step_of(net, accumulate_steps=4), step_of(twin)
    for _ in range(3):
        for i in range(4):
            small(x[2 * i : 2 * i + 2], y[2 * i : 2 * i + 2])
        large(x, y)
    for got, want in zip(
        *(jax.tree.leaves(values_of(m.states(brainstate.ParamState))) for m in (net, twin)),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-7)


def test_the_whole_road_in_a_loop(x64):
    params, opt = pair(accumulate_steps=2)
    grads = stacked_grads(4)
    assert jax.tree.leaves(grads)[0].shape[0] == 4
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *drawn(4))
    for_loop(opt.step, stacked)
    others, twin = pair()
    for i in (0, 2):
        twin.step(jax.tree.map(lambda g, i=i: g[i : i + 2].mean(0), stacked))
    assert_close(values_of(params), values_of(others), rtol=1e-12)


@pytest.mark.parametrize('steps', [(2, 1), (1, 2)])
def test_a_chain_keeps_its_names_where_slots_need_positions(steps):
    def build(count):
        w = ParamState(jnp.ones(3))
        chain = optax.chain(optax.trace(0.9), optax.trace(0.5), optax.scale(-0.1))
        return bo.OptaxOptimizer(tx=chain, accumulate_steps=count).register_trainable_weights(
            {'w': w}
        )

    old, new = map(build, steps)
    for _ in range(4):
        old.step({'w': jnp.ones(3)})
    report = new.load_state_dict(old.state_dict(), strict=False)
    assert not [line for line in report.missing if 'trace' in line]
    pairs = zip((old, new), steps, strict=True)
    inner = [o.opt_state.value if n == 1 else o.opt_state.value[0] for o, n in pairs]
    assert_same(*map(jax.tree.leaves, inner))


def test_a_chain_may_have_names_of_the_sums():
    def init(params):
        return {'gradients': jax.tree.map(jnp.zeros_like, params)}

    def update(updates, state, params=None):
        return updates, {'gradients': updates}

    w = ParamState(jnp.ones(3))
    tx = optax.GradientTransformation(init, update)
    made = [
        bo.OptaxOptimizer(tx=tx, accumulate_steps=2).register_trainable_weights({'w': w})
        for _ in range(2)
    ]
    for t in range(3):
        made[0].step({'w': t + jnp.arange(3.0)})
    made[1].load_state_dict(made[0].state_dict())
    assert_same(*(jax.tree.leaves(o.opt_state.value) for o in made))


@pytest.mark.parametrize('steps', [1, 2])
def test_loading_forgets_what_was_added_up_here(steps):
    w, v = (ParamState(jnp.zeros(2)) for _ in range(2))
    old = bo.SGD(1.0, accumulate_steps=steps).register_trainable_weights({'w': w})
    for _ in range(4):
        old.step({'w': jnp.ones(2)})
    w, v = (ParamState(jnp.zeros(2)) for _ in range(2))
    opt = bo.SGD(1.0, accumulate_steps=2).register_trainable_weights({'w': w, 'v': v})
    opt.step({'w': jnp.full(2, 100.0), 'v': jnp.full(2, 100.0)})
    opt.load_state_dict(old.state_dict(), strict=False)
    for _ in range(2):
        opt.step({'w': jnp.ones(2), 'v': jnp.ones(2)})
    np.testing.assert_array_equal(w.value, [-1.0, -1.0])
    np.testing.assert_array_equal(v.value, [-1.0, -1.0])


def test_a_count_between_two_updates_says_how_many_gradients_are_added_up():
    params, opt = pair(accumulate_steps=3)
    for g in drawn(4):
        opt.step(g)
    before = state_of(opt, params)
    for wrong in (0, 5, np.int32(6)):
        with pytest.raises(ValueError, match='step_count is 4, where 1 of .*=3 .* the remainder 1'):
            opt.step_count.value = wrong
    with pytest.raises(ValueError, match='accumulate_steps=3 are added up: assign it outside'):

        @brainstate.transform.jit
        def assign():
            opt.step_count.value = jnp.int32(1)

        assign()
    assert_same(state_of(opt, params), before)
    opt.step_count.value = 1
    twins, twin = pair(accumulate_steps=3)
    twin.step(drawn(1)[0])
    assert opt.step_count.value == twin.step_count.value == 1
    copied = copy.deepcopy(opt)
    with pytest.raises(ValueError, match='the remainder 1, got 2'):
        copied.step_count.value = 2
    _, plain = pair()
    plain.step_count.value = 7
    assert plain.step_count.value == 7


def test_sums_of_more_gradients_than_calls_are_refused():
    _, opt = pair(accumulate_steps=3)
    for g in drawn(5):
        opt.step(g)
    saved = opt.state_dict()
    _, other = pair(accumulate_steps=3)
    for count, calls in ((4, 1), (6, 0)):
        with pytest.raises(bo.IncompatibleCheckpoint) as caught:
            other.load_state_dict({**saved, 'step_count': count}, strict=False)
        line = f'2 gradients of a parameter are added up, in {calls} calls since the last update'
        assert caught.value.differences == [f'group 0: {line}', f'group 1: {line}']
    other.load_state_dict({**saved, 'step_count': 8})
    assert other.step_count.value == 8
