"""`train_step` takes over memory, and leaves all as it was when it is stopped."""

import copy
import re
import weakref
from pathlib import Path

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brainstate import ParamState
from interrupts import PACKAGE, interrupted, nth
from training import BATCHES, Net, adamw, digest, registered, sgd, square, two

import braintools_optim as bo

# ---- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize('make', [sgd, adamw, two])
def test_what_is_written_is_written_in_place(make):
    model = Net()
    opts, schedulers = make(model)
    step = bo.train_step(model, opts, square(model), schedulers)
    program = step.compiled(*BATCHES[0])
    before = digest(model, opts, schedulers)
    step(*BATCHES[0])
    values = [s.value for s in (model.body, model.head, model.mean)]
    values += [opt._core.value for opt in opts]
    written = sum(x.nbytes for x in jax.tree.leaves(values))
    aliased = program.memory_analysis().alias_size_in_bytes
    assert aliased >= 0.99 * written > 0
    pairs = program.as_text().split('input_output_alias={')[1].split('}, entry')[0]
    pairs = re.findall(r'\{(\d+)\}: \((\d+),', pairs)
    assert pairs and all(out == given for out, given in pairs)  # each its own, not a neighbour's
    assert digest(model, opts, schedulers) != before


def test_what_somebody_holds_is_kept():
    model, target, wrapped = Net(noisy=True), ParamState(jnp.zeros((4, 2))), jnp.ones(4)
    opts, _ = adamw(model)
    step = bo.train_step(model, opts, square(model))
    for t in range(5):
        target.value = model.head.value  # which the step does not touch
        model.mean.value = wrapped if t == 2 else model.mean.value
        held = [model.head.value, model.body.value, opts[0].opt_state.value]
        held += [model.random.value, model.scale.value]
        before = jax.tree.map(np.array, held[:3])
        step(*BATCHES[0])
        assert not any(x.is_deleted() for x in jax.tree.leaves((held, target.value, wrapped)))
        jax.tree.map(np.testing.assert_array_equal, held[:3], before)
        assert (np.asarray(model.head.value) != before[0]).any()


def test_what_nobody_holds_is_written_in_place():
    model = Net()
    opts, _ = sgd(model)
    step = bo.train_step(model, opts, square(model))

    def places():
        arrays = [model.head.value, *model.body.value.values(), model.mean.value]
        return {x.unsafe_buffer_pointer() for x in arrays}

    step(*BATCHES[0])
    before = places()
    for t in range(6):
        if t == 3:
            kept = model.head.value
        step(*BATCHES[0])
        if t == 3:
            assert not kept.is_deleted() and places() != before
            before = places()
        assert places() == before


def alias(x):
    """Return another array object over the same memory."""
    return jax.device_put(x, jax.devices()[0])


def test_what_shares_memory_and_is_given_to_the_step_is_not_lost():
    """After a few steps, too, when nothing but JAX looks at the arguments."""
    w, other, target = (ParamState(jnp.full(64, x)) for x in (1.0, 2.0, 0.0))
    opt = registered(bo.SGD(0.25), {'w': w, 'other': other})
    states = [w, other, target]

    def loss(x):
        return jnp.sum((w.value - target.value) ** 2 + (other.value - x) ** 2)

    step = bo.train_step(states, opt, loss)
    for _ in range(3):
        step(jnp.zeros(64))
    target.value = alias(w.value)
    shared = target.value
    assert shared.unsafe_buffer_pointer() == w.value.unsafe_buffer_pointer()
    step(jnp.zeros(64))
    np.testing.assert_array_equal(w.value, np.full(64, 0.125))
    np.testing.assert_array_equal(target.value, shared)
    argument = alias(other.value)
    step(argument)
    np.testing.assert_array_equal(argument, other.value)
    other.value = alias(w.value)
    step(jnp.zeros(64))
    np.testing.assert_allclose(other.value, np.full(64, 0.0625))
    step(jnp.zeros(64))
    assert not any(s.value.is_deleted() for s in states) and opt.step_count.value == 7


def test_a_target_that_was_placed_from_a_parameter_stays():
    w = ParamState(jnp.ones(64))
    target = ParamState(alias(w.value))
    step = bo.train_step(
        [w, target],
        registered(bo.SGD(0.25), {'w': w}),
        lambda: jnp.sum((w.value + target.value) ** 2),
    )
    step()
    np.testing.assert_array_equal(target.value, np.ones(64))
    np.testing.assert_array_equal(w.value, np.zeros(64))


def test_the_array_that_a_parameter_was_placed_from_stays():
    start = jnp.arange(64.0)
    w = ParamState(alias(start))
    bo.train_step(w, registered(bo.SGD(0.5), {'w': w}), lambda: jnp.sum(w.value**2))()
    np.testing.assert_array_equal(start, np.arange(64.0))
    np.testing.assert_array_equal(w.value, np.zeros(64))


def test_a_part_of_a_tree_in_a_state_is_gone():
    w = ParamState({'layer': {'kernel': jnp.ones(3)}})
    opt = registered(bo.SGD(0.1), {'w': w})
    step = bo.train_step(w, opt, lambda: (w.value['layer']['kernel'] ** 2).sum())
    part = w.value['layer']
    step()
    assert part['kernel'].is_deleted()
    w.value = {'layer': part}
    with pytest.raises(ValueError, match=r'earlier step took over.*part of a tree.*jnp.copy'):
        step()


def test_without_donation_nothing_is_given_away():
    model = Net()
    opts, _ = sgd(model)
    step = bo.train_step(model, opts, square(model), donate=False)
    part = model.body.value
    step(*BATCHES[0])
    assert step.compiled(*BATCHES[0]).memory_analysis().alias_size_in_bytes == 0
    assert not any(x.is_deleted() for x in part.values())


def test_counts_that_were_read_outlive_the_next_step():
    model = Net()
    opt = registered(bo.Adam(bo.StepLR(0.1, step_size=2)), model.params())
    step = bo.train_step(model, opt, square(model), scheduler=opt.lr)
    counts, epochs = [], []
    for batch in BATCHES[:3]:
        step(*batch)
        counts.append(opt.step_count.value)
        epochs.append(opt.lr.last_epoch.value)
    assert list(map(int, counts)) == list(map(int, epochs)) == [1, 2, 3]


SCHEDULERS = {
    'StepLR': lambda opt: bo.StepLR(opt, step_size=2, gamma=0.5),
    'plateau': lambda opt: bo.ReduceLROnPlateau(opt, patience=0),
    'sequence': lambda opt: bo.SequentialLR(
        opt, [bo.LinearLR(total_iters=2), bo.ExponentialLR(gamma=0.5)], milestones=[2]
    ),
    'other number': lambda opt: bo.ParamScheduler(opt, 'eps', bo.schedules.cosine(1e-8, T_max=9)),
}


@pytest.mark.parametrize('make', SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_copy_outlives_the_steps_of_its_original(make):
    model = Net()
    opt = registered(bo.Adam(0.1), model.params())
    step = bo.train_step(model, opt, square(model), scheduler=make(opt))
    step(*BATCHES[0])
    copied, saved = copy.deepcopy(opt), opt.state_dict()
    step(*BATCHES[1])  # which takes the original's memory over
    again = copied.state_dict()
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(saved), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_view_on_the_host_stays_as_it_was():
    w = ParamState(jnp.arange(64.0))
    step = bo.train_step(w, registered(bo.SGD(0.5), {'w': w}), lambda: (w.value**2).sum())
    for _ in range(4):
        view, copy = np.asarray(w.value), np.array(w.value)
        step()
        np.testing.assert_array_equal(view, copy)
    np.testing.assert_array_equal(w.value, np.zeros(64))


def test_one_array_in_several_states():
    shared = jnp.ones(3)
    a, b, c = ParamState(shared), ParamState(shared), brainstate.State(shared)
    opt = registered(bo.SGD(0.5), {'a': a, 'b': b})
    step = bo.train_step([a, b, c], opt, lambda: (a.value**2 + 3 * b.value * c.value).sum())
    for t in range(4):
        step()
        if t == 2:
            a.value = b.value = c.value  # by a later write, too
    np.testing.assert_array_equal(c.value, np.ones(3))
    np.testing.assert_array_equal(a.value, np.zeros(3))
    np.testing.assert_array_equal(b.value, np.full(3, -0.5))


# ---- all or nothing -----------------------------------------------------------------------------


def pair():
    made = []
    for _ in range(2):
        model = Net(noisy=True)
        (opt,), schedulers = adamw(model)
        made.append((model, opt, schedulers))
    return made


def in_primitive(frame):
    """Whether JAX runs one of its primitives, in the middle of which 0.12 is left without a trace.

    It computes nothing any more, and what is raised where C++ calls Python back is lost there.
    """
    while frame is not None and frame.f_code.co_name != 'bind':
        frame = frame.f_back
    return frame is not None


def test_an_interrupt_at_any_line_of_a_step():
    (model, opt, schedulers), (twin, other, theirs) = pair()
    step = bo.train_step(model, opt, square(model), schedulers)
    same = bo.train_step(twin, other, square(twin), theirs)
    for _ in range(3):
        step(*BATCHES[0])
        same(*BATCHES[0])
    digests, n, line = [digest(twin, [other], theirs)], 0, ''
    while line is not None:
        n += 1
        if len(digests) == 1:
            same(*BATCHES[0])
            digests.append(digest(twin, [other], theirs))

        under = PACKAGE, str(Path(jax.__file__).parent)
        when = nth(n, lambda frame: not in_primitive(frame))
        line = interrupted(lambda: step(*BATCHES[0]), when, under)
        found = digest(model, [opt], schedulers)
        assert found in digests, line
        assert line or found == digests[1]
        if found == digests[1]:
            digests.pop(0)
    assert n > 40


def is_gone(reference):
    return (array := reference()) is None or array.is_deleted()


def test_an_interrupt_as_soon_as_something_was_taken_over():
    (model, opt, schedulers), (twin, other, theirs) = pair()
    step = bo.train_step(model, opt, square(model), schedulers)
    same = bo.train_step(twin, other, square(twin), theirs)
    hits = 0
    for t, (x, y) in enumerate(BATCHES * 2):
        if t in (3, 6):  # kinds of arguments that the program has not met
            opt.current_lr = other.current_lr = 0.01 * t
        if t > 4:
            x, y = jnp.asarray(x), jnp.asarray(y)
        old = [weakref.ref(z) for z in (model.head.value, model.body.value['w'])]
        same(x, y)
        # As far as JAX: where Python runs while the results are nowhere but in its frames.
        hits += None is not interrupted(
            lambda x=x, y=y: step(x, y), lambda _, old=old: any(map(is_gone, old)), ''
        )
        assert digest(model, [opt], schedulers) == digest(twin, [other], theirs), t
    assert hits == 10


@pytest.mark.parametrize('n', [20, 700, 2500])
def test_an_interrupt_of_the_first_call(n):
    check_first_call(n, lambda frame: True)


@pytest.mark.parametrize('n', range(4, 60, 9))
def test_an_interrupt_while_a_trace_gives_the_states_their_values_back(n):
    check_first_call(n, lambda frame: frame.f_code.co_name == 'restore_value')


def check_first_call(n, counts):
    """Interrupt a first call at the n-th line that counts."""
    model = Net()
    opts, _ = sgd(model)
    step = bo.train_step(model, opts, square(model))
    before = digest(model, opts)

    under = PACKAGE, str(Path(brainstate.__file__).parent)
    assert interrupted(lambda: step(*BATCHES[0]), nth(n, counts), under)
    assert not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(model.body._value))
    assert digest(model, opts) == before


def test_an_error_in_the_loss_leaves_all_old():
    model = Net()
    opts, _ = sgd(model)
    before = digest(model, opts)
    step = bo.train_step(model, opts, lambda x, y: square(model)(x, y) + model(x).nothing)
    with pytest.raises(AttributeError, match='nothing'):
        step(*BATCHES[0])
    assert digest(model, opts) == before


def test_python_that_is_called_back_may_stop_a_step():
    model = Net()
    opts, _ = sgd(model)

    def refuse(x):
        if x > 1e3:
            raise RuntimeError('too large')

    def loss(x, y):
        jax.debug.callback(refuse, x.max(), ordered=True)
        return square(model)(x, y)

    step = bo.train_step(model, opts, loss)
    for _ in range(3):
        step(*BATCHES[0])
    before = digest(model, opts)
    with pytest.raises(jax.errors.JaxRuntimeError, match='too large'):
        step(BATCHES[0][0] + 1e6, BATCHES[0][1])
    assert digest(model, opts) == before
    step(*BATCHES[0])
    assert digest(model, opts) != before


@pytest.mark.parametrize('setting', ['jax_debug_nans', 'jax_disable_jit'])
def test_debugging(setting):
    model = Net()

    def loss(x, y):  # without jit brainstate's grad lets no loss write into States
        return jnp.mean((jnp.tanh(x @ model.body.value['w']) @ model.head.value - y) ** 2)

    opts = [registered(bo.SGD(0.1), {'w': model.body, 'v': model.head})]
    step = bo.train_step(model, opts, loss)
    step(*BATCHES[0])
    before = digest(model, opts)
    jax.config.update(setting, True)
    try:
        if setting == 'jax_debug_nans':
            with pytest.raises(FloatingPointError):
                step(BATCHES[0][0] * np.nan, BATCHES[0][1])
            assert digest(model, opts) == before
        step(*BATCHES[0])
    finally:
        jax.config.update(setting, False)
    assert digest(model, opts) != before


def test_hooks_see_every_write_and_may_veto():
    model, twin = Net(), Net()
    (opt,), _ = sgd(model)
    (other,), _ = sgd(twin)
    step, same = (bo.train_step(m, o, square(m)) for m, o in ((model, opt), (twin, other)))
    for s in (step, same):
        s(*BATCHES[0])
    seen = []
    handle = model.head.register_hook('write_after', lambda context: seen.append(context.value))
    for s in (step, same):
        s(*BATCHES[1])
    assert len(seen) == 1 and digest(model, [opt]) == digest(twin, [other])
    handle.remove()

    def veto(context):
        raise RuntimeError('no')

    before = digest(model, [opt])
    handle = opt._core.register_hook('write_before', veto)
    with pytest.raises(Exception, match='execution failed|error #1: no'):
        step(*BATCHES[2])
    assert digest(model, [opt]) == before
    handle.remove()
    for s in (step, same):
        s(*BATCHES[2])
    assert len(seen) == 1 and digest(model, [opt]) == digest(twin, [other])
