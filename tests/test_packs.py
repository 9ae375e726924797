"""Small arrays of the state lie together in buffers, and nobody sees it but the clock."""

import copy

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from brainstate import ParamState
from brainstate.transform import for_loop, jit
from compiling import generates_old_code
from looking import (
    assert_same,
    assert_trees_close,
    compilations,
    named,
    signature,
    ulps,
    values_of,
)

import braintools_optim as bo
from braintools_optim.engine import chunks, packs
from braintools_optim.engine.packs import Packed

RNG = np.random.default_rng(3)
ALONE = ('scalar', 'empty', 'large', 'weak', 'key')
SHAPES = [(3,), (2, 3), (4,), (1, 2), (5,), (2, 2, 2), (7,)]


def tree():
    """Return arrays that may lie together in twos and fours, and others that may not."""
    small = {f's{i}': jnp.array(RNG.normal(size=s), jnp.float32) for i, s in enumerate(SHAPES)}
    return {
        **small,
        'half': [jnp.array(RNG.normal(size=4), jnp.bfloat16) for _ in range(2)],
        'complex': [jnp.array(RNG.normal(size=2) + 1j, jnp.complex64) for _ in range(3)],
        'scalar': jnp.float32(2.0),
        'empty': jnp.zeros((0, 3)),
        'large': jnp.zeros((packs._SMALL + 1,)),
        'counts': jnp.array([0, 1, 2**16 - 1, 2**16, 2**24 + 1, 2**31 - 1, -1, -(2**31)]),
        'weak': jnp.full((2,), 1.0),
        'key': jax.random.key(0),
        'nothing': None,
    }


def packed(arrays):
    return Packed.of(arrays, [True] * len(jax.tree.leaves(arrays)))


def test_which_arrays_lie_together():
    arrays = tree()
    positions = {
        jax.tree_util.keystr(path): i
        for i, (path, _) in enumerate(jax.tree_util.tree_flatten_with_path(arrays)[0])
    }
    members = packed(arrays).packing.members
    together = [set(m) for m in members if len(m) > 1]
    assert {positions["['half'][0]"], positions["['half'][1]"]} in together
    assert {positions[f"['complex'][{i}]"] for i in range(3)} in together
    alone = {m[0] for m in members if len(m) == 1}
    assert alone >= {positions[f"['{k}']"] for k in ALONE}
    assert sorted(i for m in members for i in m) == list(range(len(positions)))
    last = {positions[f"['s{i}']"] for i in (2, 4, 6)}  # in the order of their shapes
    assert {positions["['counts']"], *last} in together  # one more than that would be without
    assert max(map(len, members)) == packs._TOGETHER


def test_counts_lie_with_float32_beside_as_many_as_without():
    arrays = [jnp.ones(2), jnp.ones(3), jnp.ones(4), jnp.ones(5), jnp.arange(1)]
    assert packed(arrays).packing.members == ((0, 1, 2, 3, 4),)
    assert packed(arrays[3:]).packing.members == ((0, 1),)
    assert packed([*arrays[:2], arrays[4], arrays[4]]).packing.members == ((0, 1, 2, 3),)
    assert packed([arrays[4], arrays[4]]).packing.members == ((0,), (1,))
    half = [x.astype(jnp.bfloat16) for x in arrays[:2]]
    assert packed([*half, arrays[4]]).packing.members == ((0, 1), (2,))


def test_equal_ones_lie_together():
    # XLA compiles equal buffers once.
    arrays = [jnp.ones(shape) for shape in [(3,), (2, 2), (5,)] * 4]
    shapes = [{arrays[i].shape for i in members} for members in packed(arrays).packing.members]
    assert sorted(map(len, shapes)) == [1, 1, 1]


def test_what_may_not_or_cannot_lies_alone():
    arrays = [jnp.ones(2), jnp.ones(3), jnp.ones(4)]
    assert Packed.of(arrays).packing.members == ((0,), (1,), (2,))
    assert Packed.of(arrays, [True, False, True]).packing.members == ((0, 2), (1,))
    here = jax.device_put(arrays[1], jax.devices()[0])  # committed, the others are not
    assert packed([arrays[0], here, arrays[2]]).packing.members == ((0, 2), (1,))
    seen = []
    jax.jit(lambda x: seen.append(packed(x).packing.members) or x)(arrays)
    assert seen == [((0,), (1,), (2,))]


def test_on_accelerators_all_lie_alone(monkeypatch):
    monkeypatch.setattr(packs, '_PLATFORM', 'gpu')  # as if the arrays here were elsewhere
    assert packed([jnp.ones(2), jnp.ones(3)]).packing.members == ((0,), (1,))


def test_what_is_packed_is_found_again():
    arrays = tree()
    there = packed(arrays)
    assert len(jax.tree.leaves(there)) < len(jax.tree.leaves(arrays)) - 6
    assert_same(there.tree, arrays)
    assert_same(jax.jit(lambda x: x.tree)(there), arrays)


def test_what_is_bound_to_a_device_stays_so():
    arrays = jax.device_put([jnp.ones(2), jnp.ones(3)], jax.devices()[0])
    there = packed(arrays)
    assert there.packing.members == ((0, 1),)
    for x in (*there.buffers, *there.tree, *there.replaced(arrays).buffers):
        assert x.committed
    assert not any(x.committed for x in packed([jnp.ones(2), jnp.ones(3)]).tree)


def test_other_numbers_in_the_same_layout():
    arrays = tree()
    there = packed(arrays)
    other = jax.tree.map(lambda x: x if x.dtype == arrays['key'].dtype else 3 * x, arrays)
    for make in (there.like, jax.jit(there.like), there.replaced):
        new = make(other)
        assert_same(new.tree, other)
        assert jax.tree.structure(new) == jax.tree.structure(there)
    host = jax.tree.map(lambda x: x if x.dtype == arrays['key'].dtype else np.asarray(x), other)
    assert jax.tree.structure(there.replaced(host)) == jax.tree.structure(there)
    assert_same(there.tree, arrays)  # is what it was


@pytest.mark.parametrize(
    'change',
    [
        lambda x: {**x, 'more': jnp.ones(2)},
        lambda x: {**x, 's0': jnp.ones(4)},
        lambda x: {**x, 's0': x['s0'].astype(jnp.float16)},
        lambda x: {**x, 's0': jax.device_put(x['s0'], jax.sharding.NamedSharding(MESH, SPEC))},
    ],
)
def test_what_does_not_fit_lies_alone(change):
    other = change(tree())
    new = packed(tree()).replaced(other)
    assert max(map(len, new.packing.members)) == 1
    assert_same(new.tree, other)


MESH = jax.make_mesh((1,), ('x',), devices=jax.devices()[:1])
SPEC = jax.sharding.PartitionSpec()


def test_equal_layouts_are_one_to_a_program():
    one, same, other = packed(tree()), packed(tree()), packed([jnp.ones(2), jnp.ones(2)])
    assert one.packing is not same.packing
    assert one.packing == same.packing and hash(one.packing) == hash(same.packing)
    assert one.packing != other.packing and one.packing != 'a layout'
    calls = []
    double = jax.jit(lambda x: calls.append(1) or jax.tree.map(lambda y: y, x))
    for x in (one, same, other):
        double(x)
    assert len(calls) == 2


def test_behind_the_axes_of_a_batch():
    arrays = [jnp.ones((2, 3)), jnp.arange(4.0)]
    there = packed(arrays)
    many = jax.vmap(lambda s: there.like(jax.tree.map(lambda x: s * x, there.tree)))(
        jnp.arange(3.0)
    )
    wanted = jax.tree.map(lambda x: jnp.arange(3.0).reshape(3, *[1] * x.ndim) * x, arrays)
    assert [x.shape for x in jax.tree.leaves(many)] == [(3, 10)]
    assert_same(many.tree, wanted)


# ---- the optimizer's state -----------------------------------------------------------------------


def params_of(shapes=SHAPES):
    rng = np.random.default_rng(5)
    return {
        f'p{i}': ParamState(jnp.array(rng.normal(size=s), jnp.float32))
        for i, s in enumerate(shapes)
    }


def gradients(t, params):
    return {
        k: jnp.cos(t + jnp.arange(p.value.size)).reshape(p.value.shape) for k, p in params.items()
    }


def lying(opt):
    """Return how many arrays lie in each buffer of the state."""
    packed, _ = opt._core.value
    return sorted(len(members) for one in packed for members in one.packing.members)


@pytest.mark.exact
@pytest.mark.parametrize('jitted', [False, True])
def test_a_step_is_what_it_is_without(jitted, monkeypatch):
    ends = []
    for most in (packs._TOGETHER, 1):
        monkeypatch.setattr(packs, '_TOGETHER', most)
        params = params_of([*SHAPES, (packs._SMALL + 1,), ()])
        opt = bo.AdamW(0.1, grad_clip_norm=1.0).register_trainable_weights(params)
        assert lying(opt)[-1] == most  # of 14 moments, and the counts beside the last two
        step = jit(opt.step) if jitted else opt.step
        for t in range(5):
            step(gradients(t, params))
        ends.append((named(params), opt.opt_state.value))
    one, other = ends
    if generates_old_code():
        assert_same(one, other)
    assert max(ulps(one[0][k], other[0][k]) for k in one[0]) <= 4
    assert_trees_close(one[1], other[1], rtol=1e-6)


def test_only_moments_and_counts_lie_together():
    params = params_of()
    opt = bo.Nadam(0.1).register_trainable_weights(params)
    products = optax.tree.get(opt.opt_state.value, 'leaf_products')
    assert products.shape == (len(params),)
    assert lying(opt) == [1, 3, 4, 4, 4]  # the products; the counts and 14 moments


def test_each_group_has_its_own_and_moments_stay_when_it_grows():
    params = params_of()
    opt = bo.Adam(0.1).register_trainable_weights({k: params[k] for k in ('p0', 'p1', 'p2')})
    for t in range(3):
        opt.step(gradients(t, {k: params[k] for k in ('p0', 'p1', 'p2')}))
    before = opt.opt_state.value
    (own,), _ = opt._core.value
    opt.add_param_group({k: params[k] for k in ('p3', 'p4')})
    assert opt._core.value[0][0] is own  # or many groups would take time quadratic in their number
    assert_same(opt.opt_state.value, before)
    assert lying(opt) == [3, 4, 5]  # counts of two groups, 10 moments
    opt.register_trainable_weights(params['p5'])
    assert lying(opt) == [4, 5, 5]
    mu = optax.tree.get(opt.opt_state.value, 'mu')
    assert all((mu[k] == optax.tree.get(before, 'mu')[k]).all() for k in ('p0', 'p1', 'p2'))


def test_counts_outlive_arithmetic_on_the_states():
    params = params_of(SHAPES[:2])
    opt = bo.Adam(0.1).register_trainable_weights(params)
    for t in range(3):
        opt.step(gradients(t, params))
    before = opt.opt_state.value
    for state in brainstate.graph.states(opt).values():
        state.value = jax.tree.map(lambda x: x * jnp.ones_like(x), state.value)
    assert_same(opt.opt_state.value, before)
    np.testing.assert_array_equal(optax.tree.get(before, 'leaf_counts'), [3, 3])


@pytest.mark.parametrize('groups', [1, 5])
def test_more_groups_have_no_more_buffers(groups):
    params, each = params_of([(3,)] * 10), 10 // groups
    names = [[f'p{i}' for i in range(k, k + each)] for k in range(0, 10, each)]
    opt = bo.AdamW(0.1).register_trainable_weights({k: params[k] for k in names[0]})
    for some in names[1:]:
        opt.add_param_group({k: params[k] for k in some})
    assert len(opt.param_groups) == groups and len(lying(opt)) == 5
    assert len(opt._core.parts()[0]) == 5


def test_small_ones_of_a_large_model_lie_alone():
    # Beside what the large ones take, buffers save nothing, and their kernels take long to compile.
    params = params_of()
    large = brainstate.ParamState(jnp.zeros((packs._LIGHT, 2 * len(SHAPES))))
    opt = bo.Adam(0.1).register_trainable_weights(params)
    opt.step(gradients(0, params))
    before, one = opt.opt_state.value, lying(opt)
    opt.add_param_group({'large': large})
    assert one == [3, 4, 4, 4] and set(lying(opt)) == {1}
    assert_same(opt.opt_state.value, before)
    (own, *_), _ = opt._core.value
    opt.add_param_group({'more': brainstate.ParamState(jnp.zeros(2))})
    assert set(lying(opt)) == {1}
    assert opt._core.value[0][0] is own  # which is not taken apart again


def test_many_leaves_lie_alone(monkeypatch):
    monkeypatch.setattr(chunks, '_MANY', len(SHAPES))
    opt = bo.Adam(0.1).register_trainable_weights(params_of())
    assert set(lying(opt)) == {1}
    assert max(lying(bo.Adam(0.1).register_trainable_weights(params_of(SHAPES[1:])))) == 5


def test_a_state_may_be_put_back_and_compiles_nothing():
    params = params_of()
    opt = bo.Adam(0.1).register_trainable_weights(params)
    opt.step(gradients(0, params))
    kept, weights = opt.opt_state.value, values_of(params)
    host = jax.tree.map(np.asarray, kept)
    opt.step(gradients(1, params))
    with compilations() as compiled:
        for state in (kept, host):
            opt.opt_state.value = state
            for k, p in params.items():
                p.value = weights[k]
            opt.step(gradients(1, params))
            again = named(params)
    assert compiled.count('jit(_flat)') == 0
    opt.opt_state.value = host
    assert_same(opt.opt_state.value, kept)  # what was taken out is alive
    assert all(np.isfinite(x).all() for x in again.values())


def test_a_state_of_another_kind_may_be_put_there():
    params = params_of()
    opt = bo.Adam(0.1).register_trainable_weights(params)
    half = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, opt.opt_state.value
    )
    opt.opt_state.value = half
    opt.step(gradients(0, params))
    assert signature(opt.opt_state.value) == signature(half)
    assert set(lying(opt)) == {1}


def test_a_loop_may_write_the_state():
    ends = []
    for loop in (for_loop, lambda f, xs: [f(x) for x in xs]):
        params = params_of()
        opt = bo.Adam(0.1).register_trainable_weights(params)

        def body(t, opt=opt, params=params):
            opt.step(gradients(t, params))
            opt.opt_state.value = jax.tree.map(lambda x: x * x.dtype.type(1), opt.opt_state.value)

        loop(body, jnp.arange(3.0))
        ends.append((named(params), opt.step_count.value))
    assert ends[0][1] == ends[1][1] == 3
    assert max(ulps(ends[0][0][k], ends[1][0][k]) for k in params) <= 2


def test_a_copied_optimizer_has_buffers_of_its_own():
    params = params_of()
    opt = bo.Adam(0.1).register_trainable_weights(params)
    opt.step(gradients(0, params))
    opt.step(gradients(0, params))
    twin = copy.deepcopy(opt)
    opt.step(gradients(1, params))  # takes over its own memory alone
    twin.step(gradients(1, params))
    assert lying(twin) == lying(opt)
    assert optax.tree.get(twin.opt_state.value, 'leaf_counts').tolist() == [3] * len(params)


def test_a_state_moved_to_a_mesh_is_stepped():
    params = params_of()
    opt = bo.Adam(0.1).register_trainable_weights(params)
    opt.step(gradients(0, params))
    before = opt.opt_state.value
    place = jax.sharding.NamedSharding(MESH, SPEC)
    states = brainstate.graph.states(opt)
    for state in states.values():
        state.value = jax.device_put(state.value, place)
    assert_same(opt.opt_state.value, before)
    opt.step(gradients(1, params))
    assert opt.step_count.value == 2
