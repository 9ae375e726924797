"""Steps that are cut into several calls: as one program, in every respect but compile time."""

import copy
from pathlib import Path

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import saiunit
from cases import (
    CASES,
)
from interrupts import EVERYWHERE, interrupted, nth, once_gone
from looking import (
    chains_of,
    compilations,
    digest,
    named,
    signature,
    ulps,
    values_of,
)

import braintools_optim as bo
from braintools_optim.engine import chunks, cutting

PACKAGE = str(Path(bo.__file__).parent)
CUT = list({case.cls: case for case in reversed(CASES) if case.make()._is_leafwise()}.values())


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Cut small steps, into two or three bundles."""
    monkeypatch.setattr(chunks, '_MANY', 2)
    monkeypatch.setattr(cutting, '_MOST_CALLS', 3)
    monkeypatch.setattr(cutting, '_CALL', 0)
    monkeypatch.setattr(cutting, '_MOST_COMPILED', 0.8)


def start(groups=2, dtype=float):
    """Return the trees of each group's parameters: three matrices, two vectors, a scalar."""
    rng = np.random.default_rng(3)

    def param(*shape):
        return brainstate.ParamState(jnp.asarray(rng.normal(size=shape), dtype))

    first = {'a': param(2, 3), 'b': param(2, 3), 'v': param(3), 'z': param(2, 3)}
    second = {'c': param(3), 'd': param(), 'e': param(3)}
    return [first, second] if groups == 2 else [first | second]


def gradients(t, like, absent=()):
    rng = np.random.default_rng([5, t])
    grads = {k: jnp.asarray(rng.normal(size=p.value.shape), p.value.dtype) for k, p in like.items()}
    return {k: g for k, g in grads.items() if k not in absent}


def build(make, trees):
    opt = make().register_trainable_weights(trees[0])
    for tree in trees[1:]:
        opt.add_param_group(tree, **({'lr': 0.03} if 'lr' in opt._numbers else {}))
    return opt, {k: p for tree in trees for k, p in tree.items()}


def cut_into(opt):
    """Return of each signature how many calls there are, None where it was not cut."""
    return [c and len(c.calls) for c in opt._stepper.donating.cut.values()]


def run(make, cut, monkeypatch):
    opt, params = build(make, start())
    seen = []
    for t in range(4):
        monkeypatch.setattr(chunks, '_MANY', 2 if cut and t > 1 else 1000)
        opt.step(gradients(t, params, ('b',) if t > 1 else ()))
        seen.append((named(params), [np.asarray(x) for x in jax.tree.leaves(opt._core.value)]))
    assert cut_into(opt) == ([3] if cut else [])
    return seen, signature((values_of(params), opt._core.value))


@pytest.mark.exact
@pytest.mark.parametrize('case', CUT, ids=lambda case: case.id)
def test_a_step_in_calls_is_the_whole_step(case, monkeypatch):
    follow_the_whole_step(case.make, 2 if 'contracted' in case.traits else 0, monkeypatch)


@pytest.mark.exact
@pytest.mark.parametrize('adamw', ['rest', 'all'])
def test_a_step_in_calls_where_a_chain_leaves_parameters_to_another(adamw, monkeypatch):
    follow_the_whole_step(lambda: bo.Muon(0.05, adamw=adamw), 2, monkeypatch)


def follow_the_whole_step(make, allowed, monkeypatch):
    (cut, cut_kind), (whole, kind) = (run(make, c, monkeypatch) for c in (True, False))
    assert cut_kind == kind
    for (params, state), (want, want_state) in zip(cut, whole, strict=True):
        assert max(ulps(params[k], want[k]) for k in want) <= allowed
        assert max(map(ulps, state, want_state), default=0) <= allowed
    assert all((cut[0][0][k] != cut[3][0][k]).any() for k in params)
    np.testing.assert_array_equal(cut[1][0]['b'], cut[3][0]['b'])


def test_all_algorithms_are_cut_but_those_that_look_at_all_leaves():
    whole = {case.cls for case in CASES} - {case.cls for case in CUT}
    assert {cls.__name__ for cls in whole if cls.__module__.startswith('braintools_optim')} == {
        *('AdEMAMix', 'LBFGS', 'Mars', 'Quad', 'Skew'),
        'Lookahead',  # over a chain
    }
    assert any(issubclass(case.cls, bo.Lookahead) for case in CUT)
    assert bo.OptaxOptimizer in {case.cls for case in CUT}  # its own chain; a given one is not


class Own(bo.Adam):
    """Somebody's own chain, of which nothing is known."""

    def transform(self, h):
        return optax.chain(optax.clip_by_global_norm(0.1), super().transform(h))


class Built(bo.Adam):
    """A chain that is built once."""

    def default_tx(self):
        return optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.1))


@pytest.mark.parametrize(
    'make',
    [
        lambda: bo.Adam(0.1, grad_clip_norm=0.1),
        lambda: bo.OptaxOptimizer(tx=optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1))),
        Own,
        Built,
        lambda: bo.Lookahead(optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1))),
        lambda: bo.Lookahead(Own()),
    ],
    ids=['clipped', 'tx', 'transform', 'default_tx', 'lookahead', 'lookahead-own'],
)
def test_what_couples_leaves_is_not_cut(make):
    opt, params = build(make, start(1))
    opt.step(gradients(0, params))
    assert cut_into(opt) == [None]


def test_leaves_of_many_kinds_are_not_cut():
    params = {f'{i}': brainstate.ParamState(jnp.ones(i)) for i in range(1, 7)}
    opt, params = build(lambda: bo.SGD(0.1), [params])
    opt.step(gradients(0, params))
    assert cut_into(opt) == [None]


def test_few_leaves_are_not_cut(monkeypatch):
    monkeypatch.undo()
    opt, params = build(lambda: bo.SGD(0.1), start())
    opt.step(gradients(0, params))
    assert cut_into(opt) == [] and chunks._MANY > 100


@pytest.mark.parametrize(
    ('sizes', 'most'),
    [([2000], 150), ([100] * 20, 150), ([1999], 150), ([24] * 12 + [1] * 5, 60), ([48] * 16, 160)],
)
def test_bundles_are_small_and_few(sizes, most, monkeypatch):
    monkeypatch.undo()
    count = cutting._best_count(sizes)
    compiled = sum(n // count + n % count for n in sizes)
    assert compiled <= most and 2 <= count <= 48


def test_every_program_is_compiled_once():
    opt, params = build(lambda: bo.AdamW(0.1), start())
    with compilations() as first:
        opt.step(gradients(0, params))
    assert first.count('jit(advance)') == 2
    grads = [gradients(t, params) for t in range(6)]
    with compilations() as later:
        for t, g in enumerate(grads):
            opt.current_lr = 0.1 / (t + 1)
            opt.eps = 1e-3 * t
            opt.step(g)
    assert later == []


def test_the_state_is_donated_and_nothing_of_the_callers():
    opt, params = build(lambda: bo.AdamW(0.1), start())
    grads = gradients(0, params)
    opt.step(grads)
    values, state = values_of(params), opt._core.parts()[0]
    opt.step(grads)
    assert not any(x.is_deleted() for x in jax.tree.leaves((values, grads)))
    # Vectors with an entry for each leaf are read by all calls.
    assert [x.is_deleted() for x in state] == [x.dtype != jnp.int32 for x in state]


def twins(steps=2):
    pair = []
    for _ in range(2):
        opt, params = build(lambda: bo.AdamW(0.1), start())
        for t in range(steps):
            opt.step(gradients(t, params))
        pair.append((opt, params))
    return pair


def test_an_interrupt_at_any_line_leaves_all_old_or_all_new():
    (opt, params), (twin, twin_params) = twins()
    t, n, line, counts = 2, 0, '', [0, 0]
    old = digest(twin, twin_params)
    twin.step(gradients(t, twin_params))
    new = digest(twin, twin_params)
    while line is not None:
        n += 1
        grads = gradients(t, params)
        line = interrupted(lambda grads=grads: opt.step(grads), nth(n))
        found = digest(opt, params)
        assert found in (old, new), f'neither old nor new after an interrupt at {line}'
        counts[found == new] += 1
        if found == new:
            t += 1
            twin.step(gradients(t, twin_params))
            old, new = new, digest(twin, twin_params)
    assert min(counts) > 3 and cut_into(opt) == [3]


@pytest.mark.parametrize('nth', [0, 1, 2])
def test_an_interrupt_between_calls_leaves_all_old_or_all_new(nth):
    (opt, params), (twin, twin_params) = twins()
    (cut,) = opt._stepper.donating.cut.values()
    old, whole, calls = digest(opt, params), list(cut.calls), []

    def stopping(entry):
        def call(*args):
            calls.append(entry)
            if len(calls) == nth + 1:
                raise KeyboardInterrupt
            return entry(*args)

        return call

    cut.calls[:] = [call._replace(entry=stopping(call.entry)) for call in whole]
    with pytest.raises(KeyboardInterrupt):
        opt.step(gradients(2, params))
    twin.step(gradients(2, twin_params))
    assert digest(opt, params) == (digest(twin, twin_params) if nth else old)
    assert len(calls) == (4 if nth else 1)
    cut.calls[:] = whole
    for o, p in ((opt, params), (twin, twin_params)):
        if nth or o is twin:
            o.step(gradients(3, p))
    if nth:
        assert digest(opt, params) == digest(twin, twin_params)


def test_an_interrupt_in_a_frame_after_a_donation_loses_nothing():
    (opt, params), (twin, twin_params) = twins(0)
    for t, absent in enumerate(((), (), ('d',), (), ('d',), ('a',), ('a', 'b', 'v', 'z'))):
        grads = gradients(t, params, absent)
        if t == 3:
            grads = jax.tree.map(np.asarray, grads)
        twin.step(grads)
        watched = [x for x in jax.tree.leaves(opt._core.value) if isinstance(x, jax.Array)]
        line = interrupted(lambda grads=grads: opt.step(grads), once_gone(watched), '', EVERYWHERE)
        assert digest(opt, params) == digest(twin, twin_params), (t, line)
    assert all(cut_into(opt))


def refused(opt, params, grads, error, match):
    before = digest(opt, params)
    with pytest.raises(error, match=match):
        opt.step(grads)
    assert digest(opt, params) == before


def test_gradients_that_do_not_fit_are_refused_with_all_old():
    ((opt, params), _) = twins()
    good = gradients(2, params)
    refused(opt, params, good | {'e': jnp.ones(4)}, ValueError, "'e' must have the shape")
    refused(opt, params, good | {'e': 'x'}, TypeError, "'e' must be an array")
    refused(opt, params, {'f': jnp.ones(3)}, KeyError, 'under .f. match no')
    gone = jnp.ones(3)
    gone.delete()
    refused(opt, params, good | {'e': gone}, ValueError, r"took over, float32\[3\] under 'e'")
    opt.step(good | {'e': jnp.ones(3, jnp.float16)})
    opt.step(good)
    assert int(opt.step_count.value) == 4 and all(cut_into(opt))


def test_a_parameter_that_is_gone_is_refused_with_all_old():
    ((opt, params), _) = twins()
    kept, params['e'].value = params['e'].value, jnp.ones(3)
    params['e'].value.delete()
    with pytest.raises(ValueError, match="parameter 'e' holds an array that an earlier step"):
        opt.step(gradients(2, params))
    params['e'].value = kept
    assert not any(x.is_deleted() for x in opt._core.parts()[0])
    opt.step(gradients(2, params))


def test_a_run_goes_on_from_a_checkpoint():
    (opt, params), (twin, twin_params) = twins(3)
    saved = opt.state_dict()
    new, new_params = build(lambda: bo.AdamW(0.1), start())
    new.load_state_dict(saved)
    for k, p in params.items():
        new_params[k].value = p.value
    again = copy.deepcopy(opt)
    for t in (3, 4):
        new.step(gradients(t, new_params))
        twin.step(gradients(t, twin_params))
    assert digest(new, new_params) == digest(twin, twin_params)
    assert int(again.step_count.value) == 3


def test_what_has_units_is_complex_tied_or_nested_is_cut_too(monkeypatch):
    def params():
        tied = brainstate.ParamState(jnp.arange(1.0, 4.0))
        return {
            **{f'u{i}': brainstate.ParamState(jnp.ones(2) * i * saiunit.mV) for i in range(3)},
            **{f'z{i}': brainstate.ParamState(jnp.ones(2) * (1 + 2j) * i) for i in range(3)},
            **{f'n{i}': brainstate.ParamState({'w': jnp.ones(2), 'b': 0.5}) for i in range(2)},
            **{'t': tied, 't2': tied, 'o': brainstate.ParamState(jnp.ones(3))},
        }

    results = []
    for many in (2, 1000):
        monkeypatch.setattr(chunks, '_MANY', many)
        tree = params()
        opt = bo.Adam(0.1, weight_decay=0.1, maximize=True, grad_clip_value=0.3)
        opt.register_trainable_weights(tree)
        for t in range(3):
            grads = {k: jax.tree.map(lambda x: 0.2 * x, p.value) for k, p in tree.items()}
            grads['o'] = jnp.full(3, 1.0 * t)
            opt.step(grads)
        results.append([np.asarray(x) for x in jax.tree.leaves((values_of(tree), chains_of(opt)))])
        kinds = signature(values_of(tree))
    assert all(np.array_equal(*pair) for pair in zip(*results, strict=True))
    assert kinds == signature(values_of(tree))


def test_a_group_that_was_small_is_cut_with_the_others(monkeypatch):
    monkeypatch.setattr(chunks, '_MANY', 8)
    first, second = start()
    opts = [build(lambda: bo.Adam(0.1), [first]), build(lambda: bo.Adam(0.1), start()[:1])]
    (opt, params), (twin, twins) = opts
    for (one, parts), many in ((opts[0], True), (opts[1], False)):
        one.step(gradients(0, parts))  # few leaves, whose moments lie together
        more = {f'{k}{i}': brainstate.ParamState(jnp.ones(3)) for i in range(3) for k in second}
        monkeypatch.setattr(chunks, '_MANY', 8 if many else 1000)
        one.add_param_group(more)
        parts |= more
        one.step(gradients(1, parts))
        one.step(gradients(2, parts))
    assert cut_into(opt) != [None] and not twin._stepper.donating.cut
    assert max(len(m) for one in opt._core.peek() for m in one.packing.members) == 1
    for name, p in params.items():
        np.testing.assert_allclose(p.value, twins[name].value, 1e-6)
