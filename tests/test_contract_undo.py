"""Whatever stops a step of a row, all States are as before it or as after it."""

from pathlib import Path

import brainstate
import jax
import numpy as np
import pytest
from brainstate import HookExecutionError
from brainstate.transform import jit
from cases import (
    CASE,
    build,
    grads_tree,
    make_params,
    over_classes,
)
from contract_runs import assert_numbers_are_plain, assert_usable, start_run
from interrupts import EVERYWHERE, PACKAGE, interrupted, nth, once_gone
from looking import (
    compilations,
    digest,
)

from braintools_optim.engine import computation as computation_module
from braintools_optim.engine import step as step_module
from braintools_optim.engine import writing as writing_module


class Stop(Exception):
    """Raised by a hook."""


@over_classes('atomic')
def test_an_exception_at_any_write_leaves_all_old(case):
    params = make_params()
    opt = build(case, params, groups=2)
    writes, fatal = [], (None, None)

    def watch(context):
        writes.append(context.operation)
        if (context.operation, writes.count(context.operation)) == fatal:
            raise KeyboardInterrupt if context.operation == 'write_after' else Stop

    states = (*opt.param_states, opt._core)
    for state in states:
        state.hooks.config.on_error = 'raise'  # brainstate's default is a warning
        for hook in ('write_before', 'write_after'):
            state.register_hook(hook, watch)
    opt.step(grads_tree(0))
    before = digest(opt, params)
    assert len(writes) == 2 * len(states)
    for hook in ('write_before', 'write_after'):
        for k in range(1, len(states) + 1):
            writes.clear()
            fatal = (hook, k)
            with pytest.raises((HookExecutionError, KeyboardInterrupt)):
                opt.step(grads_tree(1))
            assert writes.count(hook) == k and digest(opt, params) == before
    fatal = (None, None)
    assert_usable(opt, params)


def test_steps_that_are_watched_compile_once():
    params = make_params()
    opt = build(CASE['adam'], params)
    params['a'].register_hook('write_after', lambda context: None)
    opt.step(grads_tree(0))
    opt.step(grads_tree(1))
    with compilations() as later:
        opt.step(grads_tree(2))
    assert later == []


@over_classes('atomic')
def test_an_exception_in_a_jitted_training_step_leaves_all_old(case):
    params = make_params()
    opt = build(case, params, groups=2)
    opt.step(grads_tree(0))
    before = digest(opt, params)

    @jit
    def step(grads):
        opt.step(grads)
        raise Stop

    with pytest.raises(Stop):
        step(grads_tree(1))
    assert digest(opt, params) == before
    assert_usable(opt, params)


STEP_FILES = tuple(m.__file__ for m in (step_module, computation_module, writing_module))


def interrupt_everywhere(case, steps, under, watch=lambda opt: None):
    """Interrupt a step, after some others, at every line; return how many there were.

    After each all must be old or all new: bit for bit what an undisturbed twin has. The states are
    not looked at before the interrupt, since a look builds the trees that a step leaves unbuilt.
    """
    (opt, params), (twin, twin_params) = (start_run(case, steps) for _ in range(2))
    watch(opt)
    digests, n, problems = [digest(twin, twin_params)], 0, []
    line: str | None = ''
    while line is not None:
        n += 1
        if len(digests) == 1:
            twin.step(grads_tree(steps))
            digests.append(digest(twin, twin_params))
        grads = grads_tree(steps)
        line = interrupted(lambda grads=grads: opt.step(grads), nth(n), under)
        try:
            assert_numbers_are_plain(opt)
        except AssertionError as error:
            problems.append(f'{line}: {error}')
        found = digest(opt, params)
        assert found in digests, f'neither old nor new after an interrupt at {line}'
        assert line is not None or found == digests[1]
        if found == digests[1]:
            digests.pop(0)
            steps += 1
    assert not problems, problems
    assert_usable(opt, params)
    return n


@over_classes('atomic')
def test_an_interrupt_at_any_line_of_a_warm_step(case):
    # The road without hooks; a compiled step runs few lines of Python, here or anywhere.
    assert interrupt_everywhere(case, 3, (PACKAGE, str(Path(brainstate.__file__).parent))) > 20


def test_an_interrupt_at_any_line_of_a_first_step():
    # The step is traced anew each time, by the same lines for every row: one stands for all.
    assert interrupt_everywhere(CASE['sgd-momentum'], 0, STEP_FILES) > 200


def test_an_interrupt_at_any_line_of_a_watched_step():
    def watch(opt):
        opt._core.register_hook('write_after', lambda context: None)

    assert interrupt_everywhere(CASE['sgd'], 3, STEP_FILES, watch) > 10


def test_an_interrupt_right_after_the_state_was_donated():
    # A Python frame between the compiled program and the step would drop the results. JAX has many
    # when it meets arguments of a kind it has not seen: here other gradients are absent, numbers
    # come from the host or the device, gradients too.
    (opt, params), (twin, twin_params) = (start_run(CASE['adam'], 0) for _ in range(2))
    for t, absent in enumerate((None, None, 's', None, 's', 's', 'a', None, 'a', None, None)):
        if t in (6, 7, 10):
            opt.eps = twin.eps = 1e-8 * t
        grads = grads_tree(t) | ({absent: None} if absent else {})
        if t > 8:
            grads = jax.tree.map(np.asarray, grads)
        twin.step(grads)
        watched = [x for x in jax.tree.leaves(opt._core.value) if isinstance(x, jax.Array)]
        line = interrupted(lambda grads=grads: opt.step(grads), once_gone(watched), '', EVERYWHERE)
        assert not any(x.is_deleted() for x in jax.tree.leaves(opt._core.value[0])), (t, line)
        assert digest(opt, params) == digest(twin, twin_params), (t, line)


@pytest.mark.parametrize('look', [lambda o: o.state_dict(), repr, lambda o: o.opt_state.value])
def test_an_interrupt_while_somebody_looks_loses_nothing(look):
    (opt, params), (twin, twin_params) = (start_run(CASE['momentum'], 2) for _ in range(2))
    n, line = 0, ''
    while line is not None:
        n += 1
        line = interrupted(lambda: look(opt), nth(n))
        for o in (opt, twin):
            o.step(grads_tree(2))  # leaves its state unbuilt for the next look
    assert n > 5 and digest(opt, params) == digest(twin, twin_params)
