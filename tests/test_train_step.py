"""`train_step` is the loop that one writes by hand: the same numbers, one trace, in a scan."""

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import saiunit
from brainstate import ParamState
from brainstate.transform import jit
from training import BATCHES, Net, adamw, by_hand, digest, registered, sgd, square, two

import braintools_optim as bo


@pytest.mark.parametrize('noisy', [False, True])
@pytest.mark.parametrize('make', [sgd, adamw, two])
def test_the_same_as_by_hand(make, noisy):
    runs = []
    for whole in (True, False):
        model = Net(noisy)
        opts, schedulers = make(model)
        if whole:
            step = bo.train_step(model, opts, square(model), schedulers)
        else:
            step = by_hand(opts, square(model), schedulers)
        runs.append(([float(step(*batch)) for batch in BATCHES], digest(model, opts, schedulers)))
    assert runs[0] == runs[1]
    assert len(set(runs[0][0])) == len(BATCHES)


def test_auxiliary_outputs():
    runs = []
    for whole in (True, False):
        model = Net()
        opts, _ = sgd(model)

        def loss(x, y, model=model):
            out = model(x)
            return jnp.mean((out - y) ** 2), {'out': out, 'n': 3}

        make = bo.train_step(model, opts, loss, has_aux=True) if whole else None
        step = make or by_hand(opts, loss, has_aux=True)
        value, aux = [step(*batch) for batch in BATCHES][-1]
        assert aux['out'].shape == (6, 2) and int(aux['n']) == 3
        runs.append((float(value), np.asarray(aux['out']).tobytes(), digest(model, opts)))
    assert runs[0] == runs[1]


def test_batch_normalization_and_dropout():
    runs = []
    for whole in (True, False):
        brainstate.random.seed(5)
        norm, drop = brainstate.nn.BatchNorm0d((4,)), brainstate.nn.Dropout(0.5)
        head = ParamState(jnp.ones((4, 2)))
        opt = registered(bo.Adam(0.01), {'head': head, 'norm': norm.states(ParamState)})
        model = [norm, drop, head]

        def loss(x, y, norm=norm, drop=drop, head=head):
            return jnp.mean((drop(norm(x)) @ head.value - y) ** 2)

        with brainstate.environ.context(fit=True):
            step = bo.train_step(model, opt, loss) if whole else by_hand([opt], loss)
            losses = [float(step(*batch)) for batch in BATCHES[:3]]
        key = np.asarray(jax.random.key_data(brainstate.random.DEFAULT.value)).tobytes()
        runs.append((losses, digest(norm, [opt]), np.asarray(head.value).tobytes(), key))
    assert runs[0] == runs[1]
    assert len(set(losses)) == 3


def test_a_step_for_each_mode_of_the_model():
    """A step that has met one value of ``fit`` is another one under the other."""
    drop, w, traces = brainstate.nn.Dropout(0.5), ParamState(jnp.ones(64)), []
    opt = registered(bo.SGD(0.0), {'w': w})

    def loss():
        traces.append(brainstate.environ.get('fit'))
        return drop(w.value).sum()

    step = bo.train_step([drop, w], opt, loss)
    seen = {False: set(), True: set()}
    for fit in (False, True, True, False, True, False):
        with brainstate.environ.context(fit=fit):
            seen[fit].add(float(step()))
    assert seen[False] == {64.0} and len(seen[True]) == 3
    assert set(traces) == {False, True}
    before = len(traces)
    for fit in (True, False):
        with brainstate.environ.context(fit=fit):
            step()
    assert len(traces) == before


def test_units_and_complex_numbers():
    volt = saiunit.volt
    w = ParamState(jnp.array([1.0, 2.0]) * volt)
    z = ParamState(jnp.array([1.0 + 2.0j, -0.5j]))
    opt = registered(bo.SGD(0.1), {'w': w, 'z': z})
    step = bo.train_step(
        [w, z], opt, lambda: ((w.value / volt) ** 2).sum() + (jnp.abs(z.value) ** 2).sum()
    )
    for _ in range(2):
        step()
    np.testing.assert_allclose((w.value / volt), 0.64 * np.array([1.0, 2.0]), rtol=1e-6)
    np.testing.assert_allclose(z.value, 0.64 * np.array([1 + 2j, -0.5j]), rtol=1e-6)


# ---- live numbers, traces -----------------------------------------------------------------------


def counted(model):
    traces = []
    loss = square(model)
    return traces, lambda x, y: (traces.append(1), loss(x, y))[1]


def test_one_trace_whatever_number_changes():
    model = Net()
    (opt,), _ = adamw(model)
    traces, loss = counted(model)
    step = bo.train_step(model, opt, loss)
    twin = Net()
    (other,), _ = adamw(twin)
    hand = by_hand([other], square(twin))
    for t, batch in enumerate(BATCHES * 2):
        for o, s in ((opt, step), (other, hand)):
            o.current_lr = 0.01 * (t + 1)
            o.param_groups[1]['weight_decay'] = 0.1 * t
            o.betas = (0.9 - 0.01 * t, 0.99)
            o.grad_clip_norm = 0.5 if t % 2 else float('inf')
            o.lr.step()  # by Python, outside
            s(*batch)
        model.scale.value = twin.scale.value = jnp.ones(4) + t  # a State that it only reads
    assert len(traces) == 1
    assert digest(model, [opt]) == digest(twin, [other])


def test_a_program_for_each_shape():
    model = Net()
    opts, _ = sgd(model)
    traces, loss = counted(model)
    step = bo.train_step(model, opts, loss)
    x, y = BATCHES[0]
    for n in (6, 3, 6, 3, 6):
        step(x[:n], y[:n])
    step(jnp.asarray(x), y=jnp.asarray(y))
    assert len(traces) == 3  # two shapes, and y by name


def test_parameters_that_are_added_later():
    model = Net()
    opt = registered(bo.SGD(0.1), {'body': model.body})
    traces, loss = counted(model)
    step = bo.train_step(model, opt, loss)
    head = np.asarray(model.head.value)
    step(*BATCHES[0])
    assert np.array_equal(head, model.head.value)
    opt.add_param_group({'head': model.head}, lr=0.2)
    step(*BATCHES[0])
    assert not np.array_equal(head, model.head.value) and len(traces) == 2


@pytest.mark.parametrize('how', ['train_step', 'scan', 'jit'])
@pytest.mark.parametrize('make', [bo.SGD, bo.Fromage, bo.Adam])
def test_a_compiled_step_trains_what_is_registered_later(make, how):
    """Also where the chain keeps nothing, so that its state looks as before."""
    a, b = ParamState(jnp.ones(2)), ParamState(jnp.ones(2))
    opt = make(0.1).register_trainable_weights({'a': a})

    def loss():
        return (a.value**2).sum() + (b.value**2).sum()

    @jit
    def by_hand():
        opt.step(
            {'a': 2 * a.value, 'b': 2 * b.value}
            if len(opt.param_states) > 1
            else {'a': 2 * a.value}
        )

    step = bo.train_step({'a': a, 'b': b}, opt, loss)
    take = {'train_step': step, 'scan': lambda: step.scan(length=1), 'jit': by_hand}[how]
    for _ in range(2):
        take()
    assert jnp.all(b.value == 1.0)
    opt.register_trainable_weights({'b': b})
    take()
    assert jnp.all(b.value < 1.0)


def test_together_with_eager_steps_and_snapshots():
    runs = []
    for whole in (True, False):
        model = Net()
        (opt,), schedulers = adamw(model)
        make = bo.train_step(model, opt, square(model), schedulers) if whole else None
        step = make or by_hand([opt], square(model), schedulers)
        grads = jax.tree.map(jnp.ones_like, opt.param_states.to_pytree_value())
        for batch in BATCHES[:2]:
            step(*batch)
            opt.step(grads)
        saved = opt.state_dict()
        step(*BATCHES[2])
        opt.load_state_dict(saved)
        step(*BATCHES[3])
        assert opt.step_count.value == 5
        runs.append(digest(model, [opt], schedulers))
    assert runs[0] == runs[1]


def test_the_loss_drives_a_plateau_scheduler():
    w = ParamState(jnp.ones(1))
    opt = registered(bo.SGD(0.5), {'w': w})
    scheduler = bo.ReduceLROnPlateau(opt, patience=1, factor=0.5)
    step = bo.train_step(w, opt, lambda: (w.value * 0.0).sum() + 1.0, scheduler)
    for _ in range(4):
        step()
    assert opt.current_lr == 0.25 and scheduler.best == 1.0


def test_inside_a_transformation_it_is_inlined():
    runs = []
    for inside in (True, False):
        model = Net()
        opts, _ = sgd(model)
        step = bo.train_step(model, opts, square(model))

        def outer(x, y, step=step):
            return 2 * step(x, y)

        outer = jit(outer) if inside else outer
        runs.append(([float(outer(*b)) for b in BATCHES], digest(model, opts)))
    assert runs[0] == runs[1]


# ---- many steps in one program ------------------------------------------------------------------


@pytest.mark.parametrize('progress', [False, 2])
def test_scan_is_the_loop(progress, capsys):
    runs = []
    for scan in (True, False):
        model = Net(noisy=True)
        (opt,), schedulers = adamw(model)

        def loss(x, y, model=model):
            out = model(x)
            return jnp.mean((out - y) ** 2), out

        step = bo.train_step(model, opt, loss, schedulers, has_aux=True)
        if scan:
            stacked = tuple(map(np.stack, zip(*BATCHES, strict=True)))
            losses, outs = step.scan(stacked, progress=progress)
            step.scan(stacked, progress=progress)
        else:
            losses, outs = map(np.stack, zip(*(step(*b) for b in BATCHES), strict=True))
            for batch in BATCHES:
                step(*batch)
        runs.append((losses, outs, digest(model, [opt], schedulers)))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert runs[0][2] == runs[1][2]
    shown = capsys.readouterr()
    assert bool(shown.out + shown.err) == bool(progress)


def test_loops_of_other_lengths_and_bars_are_not_kept_for_ever():
    w = ParamState(jnp.ones(2))
    step = bo.train_step(w, registered(bo.SGD(0.25), {'w': w}), lambda: (w.value**2).sum())
    for length in range(1, 12):
        step.scan(length=length)
    assert len(step._loops) == 8
    assert step.scan(length=11).shape == (11,) and len(step._loops) == 8


def test_scan_without_arguments_and_over_one():
    w = ParamState(jnp.ones(2))
    opt = registered(bo.SGD(0.25), {'w': w})
    step = bo.train_step(w, opt, lambda s=1.0: s * (w.value**2).sum())
    assert step.scan(length=3).shape == (3,)
    np.testing.assert_allclose(w.value, 0.125)
    assert step.scan(jnp.array([1.0, 0.0])).tolist() == [0.03125, 0.0]
    assert step.scan(jnp.ones(4), length=4).shape == (4,)
    assert step.scan(jnp.ones(5)).shape == (5,)  # the length of one call is not that of the next
    for wrong in ((), (jnp.ones(2), jnp.ones(3)), (jnp.array(1.0),)):
        with pytest.raises(ValueError, match='first axis'):
            step.scan(wrong)
    with pytest.raises(TypeError, match='progress'):
        step.scan(length=3, progress='yes')
    for wrong in ('3', 2.0, True):
        with pytest.raises(TypeError, match='scan needs an integer >= 0 for length'):
            step.scan(length=wrong)


# ---- wrong use ----------------------------------------------------------------------------------


def test_wrong_construction():
    model, foreign = Net(), Net()
    opt = registered(bo.SGD(0.1), model.params())
    loss = square(model)
    strange = registered(bo.SGD(0.1), {'head': foreign.head})
    cases = [
        (ValueError, r'SGD \(optimizer 0\) trains head, which was no', (model, strange, loss)),
        (ValueError, 'no parameters yet', (model, bo.SGD(0.1), loss)),
        (
            ValueError,
            'already a parameter of SGD',
            (model, [opt, registered(bo.SGD(0.1), [model.head])], loss),
        ),
        (ValueError, 'same optimizer twice', (model, [opt, opt], loss)),
        (TypeError, 'needs an optimizer, got None', (model, None, loss)),
        (
            TypeError,
            'needs one OptaxOptimizer or several for optimizer, got',
            (model, optax.sgd(0.1), loss),
        ),
        (TypeError, 'a model or its States, got str', ('model', opt, loss)),
        (ValueError, 'without States', ({}, opt, loss)),
        (TypeError, 'a function for loss_fn', (model, opt, 3.0)),
        (TypeError, 'Scheduler.*got float', (model, opt, loss, 0.1)),
        (ValueError, 'StepLR drives no optimizer', (model, opt, loss, bo.StepLR(step_size=3))),
        (
            ValueError,
            'StepLR drives a SGD that',
            (model, opt, loss, bo.StepLR(strange, step_size=3)),
        ),
        (TypeError, 'True or False for donate', (model, opt, loss, None, 'yes')),
    ]
    for error, match, args in cases:
        with pytest.raises(error, match=match):
            bo.train_step(*args)
    with pytest.raises(TypeError, match='value_fn, got 3'):
        bo.train_step(model, opt, loss, value_fn=3)


def test_wrong_losses_and_arguments():
    model = Net()
    opt = registered(bo.SGD(0.1), model.params())
    before = digest(model, [opt])
    x, y = BATCHES[0]
    cases = [
        (TypeError, r'a real scalar, got float32\[6, 2\]', lambda x, y: model(x) - y, {}),
        (TypeError, 'say has_aux=True', lambda x, y: (square(model)(x, y), x), {}),
        (
            TypeError,
            r'must return \(loss, aux\), got float32\[\]',
            square(model),
            {'has_aux': True},
        ),
        (TypeError, r'a real scalar, got complex64\[\]', lambda x, y: model(x).sum() * 1j, {}),
        (TypeError, 'a real scalar, got NoneType', lambda x, y: None, {}),
        (ValueError, 'does not read body, which SGD', lambda x, y: (model.head.value**2).sum(), {}),
    ]
    for error, match, loss, options in cases:
        with pytest.raises(error, match=match):
            bo.train_step(model, opt, loss, **options)(x, y)
    step = bo.train_step(model, opt, square(model))
    with pytest.raises(TypeError, match=r'got str for argument \[1\]'):
        step(x, 'y')
    with pytest.raises(RuntimeError, match='inside a transformation'):
        jit(lambda: step.compiled(x, y))()
    assert digest(model, [opt]) == before
    assert repr(step).startswith('train_step(') and 'SGD' in repr(step)


def test_the_precision_of_products_is_that_of_the_call():
    """JAX traces and compiles programs for the setting; so must those that are kept here."""
    model = brainstate.nn.Module()
    model.kernel = ParamState(jnp.eye(2))
    weights, x = model.states(ParamState), jnp.ones((3, 2))
    grads, traces = {('kernel',): jnp.ones((2, 2))}, []

    def loss(x):
        traces.append('loss')
        return jnp.sum((x @ model.kernel.value) ** 2)

    def squared(updates, params):
        traces.append('chain')
        return jax.tree.map(lambda g: g @ g, updates)

    opt = bo.SGD(0.1).register_trainable_weights(weights)
    step = bo.train_step(model, opt, loss)
    eager = bo.OptaxOptimizer(tx=optax.stateless(squared)).register_trainable_weights(weights)
    search = bo.LBFGS(max_iter=1).register_trainable_weights(weights)
    actions = {
        'train_step': lambda: step(x),
        'eager': lambda: eager.step(grads),
        'closure': lambda: search.step(lambda: loss(x)),
    }
    for name, act in actions.items():
        traced = []
        for precision in ('default', 'highest', 'default', 'highest'):
            traces.clear()
            with jax.default_matmul_precision(precision):
                for _ in range(3):
                    act()
            traced.append(bool(traces))
        assert traced == [True, True, False, False], name
    for precision in ('default', 'highest'):
        with jax.default_matmul_precision(precision):
            text = step.compiled(x).as_text()
        assert ('operand_precision={highest,highest}' in text) == (precision == 'highest')


WEAK, STRONG = jnp.asarray(1.0 + 1 / 512), jnp.float32(1.0 + 1 / 512)


@pytest.mark.parametrize('calls', [[WEAK, WEAK, STRONG], [STRONG, STRONG, WEAK]])
def test_weakly_typed_arrays_are_told_apart(calls):
    """They do not widen narrower parameters; their shapes and dtypes are those of others."""
    w, held = brainstate.ParamState(jnp.ones(3, 'bfloat16')), brainstate.ShortTermState(WEAK)
    opt = bo.SGD(0.0).register_trainable_weights({'w': w})

    def loss(x):
        return jnp.zeros(()) * w.value.sum(), (w.value * x, w.value * held.value)

    step = bo.train_step([w, held], opt, loss, has_aux=True)
    one = jnp.ones((), 'bfloat16')
    for x in calls:
        held.value = x
        _, (by_argument, by_state) = step(x)
        assert by_argument.dtype == by_state.dtype == (one * x).dtype
        _, (stacked, _) = step.scan((jnp.broadcast_to(x, (2,)),))
        assert stacked.dtype == (one * x).dtype


@pytest.mark.parametrize('calls', [[WEAK, WEAK, STRONG], [STRONG, STRONG, WEAK]])
def test_weakly_typed_parameters_are_told_apart(calls):
    """Those are donated."""
    w, narrow = brainstate.ParamState(jnp.ones(3)), jnp.ones(3, 'bfloat16')
    opt = bo.SGD(0.0).register_trainable_weights({'w': w})
    step = bo.train_step(w, opt, lambda: (w.value.sum(), w.value * narrow), has_aux=True)
    for x in calls:
        w.value = jnp.broadcast_to(x, (3,))
        assert step()[1].dtype == (narrow * x).dtype


@pytest.mark.parametrize('calls', [[WEAK, WEAK, STRONG], [STRONG, STRONG, WEAK]])
def test_weakly_typed_extra_arguments_are_told_apart(calls):
    def update(updates, state, params=None, *, value, **extra):
        widened = jnp.result_type(jnp.bfloat16, value) == jnp.float32
        return jax.tree.map(lambda g: g * (2.0 if widened else 1.0), updates), state

    tx = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    w = brainstate.ParamState(jnp.zeros(1))
    opt = bo.OptaxOptimizer(tx=tx).register_trainable_weights({'w': w})
    for x in calls:
        w.value = jnp.zeros(1)
        opt.step({'w': jnp.ones(1)}, value=x)
        assert w.value.tolist() == [1.0 if x.weak_type else 2.0]
