"""Parameters on a mesh: the step leaves everything where it is, and computes the same.

The checks run in a process of their own with eight host devices: this file, as a script. It
prints a JSON object with a list of complaints for every case.
"""

import json

import brainstate
import jax
import jax.numpy as jnp
import pytest
from brainstate import ParamState
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from looking import chains_of
from on_mesh import complaints_of

import braintools_optim as bo

STEPS = 3
OPTIMIZERS = ['SGD', 'Adam', 'AdamW', 'Lion', 'LBFGS', 'tx']
ROADS = ['eager', 'jit', 'for_loop']
LATE = ['eager', 'jit', 'train_step']
MOVES = {  # by which road
    'divided': 'eager',
    'gathered on a device': 'train_step',
    'on another device': 'eager',
    'put on a mesh': 'train_step',
}
EXPLICIT = ['Adam', 'AdamW', 'Adafactor', 'LBFGS', 'Lamb', 'Mars', 'Muon', 'SM3']


def test_on_a_mesh():
    complaints = complaints_of(__file__)
    assert set(complaints) == {
        *(f'{name} {road}' for name in OPTIMIZERS for road in ROADS),
        *('compilations eager', 'compilations jit', 'late group', 'partly sharded'),
        *('checkpoint', 'copy', 'a closure on other devices', 'a whole beside a part, scanned'),
        *(f'explicit {name}' for name in EXPLICIT),
        *(f'placed late, {kind}, {road}' for kind in ('Auto', 'Explicit') for road in LATE),
        *MOVES,
        *('two States with one shard', 'a group that nobody placed'),
    }
    assert {what: found for what, found in complaints.items() if found} == {}


@pytest.mark.parametrize('kind', [AxisType.Auto, AxisType.Explicit], ids=str)
def test_a_mesh_of_one_device_is_one(kind):
    mesh = jax.make_mesh((1,), ('data',), axis_types=(kind,))
    w = ParamState(jnp.ones((4, 2)))
    opt = bo.LBFGS(0.1).register_trainable_weights({'w': w})  # which scatters
    w.value = jax.device_put(w.value, NamedSharding(mesh, PartitionSpec('data')))
    for step in (opt.step, brainstate.transform.jit(opt.step)):
        step({'w': w.value})
    assert all(x.sharding.mesh == mesh for x in jax.tree.leaves(opt.opt_state.value))


# ---- what the other process runs ---------------------------------------------------------------


def main():
    import copy
    from collections import Counter

    import numpy as np
    import optax
    from jax.sharding import Mesh

    assert len(jax.devices()) == 8
    mesh = jax.make_mesh((4, 2), ('data', 'model'), axis_types=(AxisType.Auto,) * 2)
    compiled = Counter()
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.update([event.rsplit('/')[-1]])
    )
    compiles = 'backend_compile_duration'

    def place(x, *spec):
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))

    def parameters(sharded):
        put = place if sharded else lambda x, *_: x
        rng = np.random.default_rng(0)

        def random(*shape):
            return jnp.asarray(rng.normal(size=shape), jnp.float32)

        first = {
            'w': ParamState(put(random(8, 4), 'data', 'model')),
            'b': ParamState(put(random(4), 'model')),
            'layer': ParamState(
                {
                    'kernel': put(random(4, 8), None, ('data', 'model')),
                    'half': put(random(8).astype(jnp.bfloat16), 'data'),
                }
            ),
            'scalar': ParamState(put(jnp.float32(1.5))),
            'whole': ParamState(put(random(16))),
        }
        second = {
            'head': ParamState(put(random(16, 2), 'data')),
            'complex': ParamState(put((random(8) + 1j * random(8)).astype(jnp.complex64), 'data')),
        }
        return first, second

    def values(opt):
        return {k: s.value for k, s in opt.param_states.to_dict().items()}

    def gradients(opt, sharded):
        # Of another layout than the parameters, as they may come from a loss over sharded data.
        grads = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size).reshape(p.shape)), values(opt))
        return jax.tree.map(elsewhere, grads) if sharded else grads

    def elsewhere(g):
        axes = ('data',) if g.ndim and g.shape[-1] % 4 == 0 else ()
        return place(g, *(None,) * (g.ndim - 1), *axes)

    def arrays(opt):
        pairs, _ = jax.tree_util.tree_flatten_with_path((values(opt), chains_of(opt)))
        return {jax.tree_util.keystr(path): x for path, x in pairs if isinstance(x, jax.Array)}

    def moved(before, opt):
        """Return what is not where it was."""
        return [
            f'{key}: {before[key].sharding} -> {x.sharding}'
            for key, x in arrays(opt).items()
            if key in before and not x.sharding.is_equivalent_to(before[key].sharding, x.ndim)
        ]

    def apart(opt):
        """Return moments that are not where their parameter is."""
        params = {p.shape: p.sharding for p in jax.tree.leaves(values(opt))}
        params[8, 2] = NamedSharding(mesh, PartitionSpec('data'))  # complex numbers as pairs
        rings = {
            (3, *shape): NamedSharding(mesh, PartitionSpec(None, *sharding.spec))
            for shape, sharding in params.items()
            if isinstance(sharding, NamedSharding)
        }
        params |= rings
        return [
            f'{x.shape}: {x.sharding}, its parameter: {params[x.shape]}'
            for x in jax.tree.leaves(chains_of(opt))
            if x.shape in params and not x.sharding.is_equivalent_to(params[x.shape], x.ndim)
        ]

    def unequal(opt, plain, tolerance=2e-6):
        found = []
        for (key, x), y in zip(arrays(opt).items(), arrays(plain).values(), strict=True):
            loose = 1e-2 if x.dtype == jnp.bfloat16 and tolerance else tolerance
            a, b = (np.asarray(z).astype(np.complex128) for z in (x, y))
            if not np.allclose(a, b, rtol=loose, atol=tolerance):
                found.append(f'{key}: {a} is not {b}')
        return found

    make = {
        'SGD': lambda: bo.SGD(0.1, momentum=0.9, weight_decay=0.01, grad_clip_norm=1.0),
        'Adam': lambda: bo.Adam(0.1, amsgrad=True, grad_clip_value=0.5),
        'AdamW': lambda: bo.AdamW(0.1, skip_nonfinite=True, decay_mask=matrices),
        'Lion': lambda: bo.Lion(0.1, accumulate_steps=2, grad_clip_norm=1.0),
        'LBFGS': lambda: bo.LBFGS(0.1, memory_size=3),
        'tx': lambda: bo.OptaxOptimizer(tx=optax.adamw(0.1)),
    }

    def matrices(tree):
        return jax.tree.map(lambda x: x.ndim > 1, tree)

    def train(opt, grads, road):
        if road == 'for_loop':
            brainstate.transform.for_loop(lambda _: opt.step(grads), jnp.arange(STEPS))
            return
        step = brainstate.transform.jit(opt.step) if road == 'jit' else opt.step
        for _ in range(STEPS):
            step(grads)

    report = {}
    for name in make:
        first, second = parameters(False)
        plain = make[name]().register_trainable_weights(first)
        plain.add_param_group(second, **({} if name == 'tx' else {'lr': 0.02}))
        train(plain, gradients(plain, False), 'eager')
        for road in ROADS:
            first, second = parameters(True)
            opt = make[name]().register_trainable_weights(first)
            opt.add_param_group(second, **({} if name == 'tx' else {'lr': 0.02}))
            before, grads = arrays(opt), gradients(opt, True)
            if road == 'for_loop':  # in which the compiler chooses where its own variables are
                grads = jax.tree.map(place, grads)
            found = apart(opt)
            train(opt, grads, road)
            found += moved(before, opt) + apart(opt)
            report[f'{name} {road}'] = found + unequal(opt, plain)

    for road in ('eager', 'jit'):
        for _ in range(2):  # the first time helpers are compiled, too
            opt = bo.Adam(0.1).register_trainable_weights(parameters(True)[0])
            opt.add_param_group(parameters(True)[1], lr=0.02)
            step = brainstate.transform.jit(opt.step) if road == 'jit' else opt.step
            grads = gradients(opt, True)
            before = compiled[compiles]
            for i in range(2 * STEPS):
                if i % 2:  # a change of values compiles nothing
                    opt.param_groups[1]['lr'] = 0.1 + 0.01 * i
                step(grads)
        n = compiled[compiles] - before
        report[f'compilations {road}'] = [] if n == 1 else [f'{n} compilations']

    name = 'late group'
    first, second = parameters(True)
    opt = bo.Adam(0.1).register_trainable_weights(first)
    step = brainstate.transform.jit(opt.step)
    grads = gradients(opt, True)
    opt.step(grads)
    step(grads)
    early = dict(arrays(opt))
    opt.add_param_group(second, lr=0.02)
    found = moved(early, opt) + apart(opt)
    grads = gradients(opt, True)
    opt.step(grads)
    step(grads)
    report[name] = found + moved(early, opt) + apart(opt)

    name = 'partly sharded'
    first, _ = parameters(True)
    first['local'] = ParamState(jnp.ones(3))  # never put anywhere
    opt = bo.Adam(0.1).register_trainable_weights(first)
    early = dict(arrays(opt))
    grads = gradients(opt, True)
    train(opt, grads, 'eager')
    train(opt, grads, 'jit')
    # JAX has nowhere but the mesh to put what is computed with the rest.
    report[name] = moved({k: x for k, x in early.items() if 'local' not in k}, opt)

    name = 'checkpoint'
    saved = opt.state_dict()
    other, _ = parameters(True)
    other['local'] = ParamState(jnp.ones(3))
    again = bo.Adam(0.1).register_trainable_weights(other)
    for key, value in values(opt).items():
        again.param_states.get_state_by_path(key).value = jax.tree.map(jnp.copy, value)
    early = dict(arrays(again))
    again.load_state_dict(saved)
    found = moved({k: x for k, x in early.items() if 'local' not in k}, again)
    opt.step(grads)
    again.step(grads)
    report[name] = found + unequal(again, opt, 0.0)

    name = 'copy'
    early = dict(arrays(opt))
    report[name] = moved(early, copy.deepcopy(opt))

    # On explicit axes JAX guesses nothing: what a chain reshapes, cuts or multiplies has to say so.
    explicit = jax.make_mesh((4, 2), ('data', 'model'), axis_types=(AxisType.Explicit,) * 2)
    specs = {'w': PartitionSpec('data', 'model'), 'v': PartitionSpec(None, ('data', 'model'))}
    start = {'w': jnp.sin(jnp.arange(32.0)).reshape(8, 4), 'v': jnp.cos(jnp.ones((4, 8)))}
    for name in EXPLICIT:
        ends = []
        for sharded in (False, True):
            params = {
                k: ParamState(jax.device_put(x, NamedSharding(explicit, specs[k])))
                if sharded
                else ParamState(jnp.copy(x))
                for k, x in start.items()
            }
            more = {
                'Mars': {'variant': 'shampoo'},
                'AdamW': {'accumulate_steps': 2},
                'Adam': {'constrain': lambda x: jnp.full(x.shape, 0.25)},
            }
            opt = getattr(bo, name)(lr=0.1, **more.get(name, {})).register_trainable_weights(params)
            early = dict(arrays(opt))
            jitted = brainstate.transform.jit(opt.step)
            for step in (opt.step, jitted if sharded else opt.step):
                grads = {k: jnp.sin(3.0 * p.value) for k, p in params.items()}
                if sharded:
                    other = NamedSharding(explicit, PartitionSpec('model'))
                    grads = jax.device_put(grads, other)
                step(grads)
            ends.append(opt)
        report[f'explicit {name}'] = moved(early, ends[1]) + unequal(ends[1], ends[0])

    # Placed after they were registered: moments follow, but for those that a trace holds already.
    for kind in AxisType.Auto, AxisType.Explicit:
        late = jax.make_mesh((8,), ('data',), axis_types=(kind,))
        where = {
            'w': NamedSharding(late, PartitionSpec('data')),
            'b': NamedSharding(late, PartitionSpec()),
        }
        start = {'w': jnp.sin(jnp.arange(32.0)).reshape(8, 4), 'b': jnp.ones(8)}
        plain = None
        for road in ('eager', *LATE):
            params = {k: ParamState(jnp.copy(x)) for k, x in start.items()}
            opt = bo.AdamW(lr=0.1).register_trainable_weights(params)
            for k, state in params.items() if plain else ():
                state.value = jax.device_put(state.value, where[k])

            def eager(opt=opt, params=params):
                opt.step({k: jnp.sin(3.0 * v.value) for k, v in params.items()})

            def loss(params=params):
                return sum(-jnp.sum(jnp.cos(3.0 * v.value)) / 3 for v in params.values())

            step = eager
            if road == 'jit':
                step = brainstate.transform.jit(eager)
            elif road == 'train_step':
                step = bo.train_step(params, opt, loss)
            for _ in range(3):
                step()
            if plain is None:  # the first, that nobody placed
                plain = opt
                continue
            found = unequal(opt, plain)
            for k, m in opt.opt_state.value[0].mu.items() if road != 'jit' else ():
                if not m.sharding.is_equivalent_to(where[k], m.ndim):
                    found.append(f'{k}: {m.sharding}')
            report[f'placed late, {kind.name}, {road}'] = found

    # Moved between steps: moments follow.
    device = jax.devices()
    row = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    whole, parts = NamedSharding(row, PartitionSpec()), NamedSharding(row, PartitionSpec('data'))
    start = jnp.sin(jnp.arange(32.0)).reshape(8, 4)

    def walk(here=None, there=None, road='eager'):
        w = ParamState(start if here is None else jax.device_put(start, here))
        opt = bo.AdamW(lr=0.1).register_trainable_weights({'w': w})

        def step():
            opt.step({'w': jnp.sin(3.0 * w.value)})

        if road == 'train_step':
            step = bo.train_step(w, opt, lambda: -jnp.sum(jnp.cos(3.0 * w.value)) / 3)
        step()
        if here is not None:
            w.value = jax.device_put(w.value, there)
        step()
        return w, opt

    ways = [(whole, parts), (parts, device[3]), (device[1], device[2]), (device[1], whole)]
    stayed = walk()[1]
    for (move, road), way in zip(MOVES.items(), ways, strict=True):
        w, opt = walk(*way, road)
        found = unequal(opt, stayed)
        for m in (w.value, opt.opt_state.value[0].mu['w']):
            if not m.sharding.is_equivalent_to(jax.device_put(start, way[1]).sharding, 2):
                found.append(f'{m.sharding}')
        report[move] = found

    # A step puts it on the mesh of the others, from which nothing takes its moments again.
    ends = []
    for sharded in (False, True):
        params = {'w': ParamState(start), 'b': ParamState(jnp.ones(8))}
        if sharded:
            params['w'].value = jax.device_put(start, parts)
        opt = bo.Adam(0.1).register_trainable_weights({'w': params['w']})
        opt.add_param_group({'b': params['b']})
        grads = {'w': jnp.cos(start), 'b': jnp.arange(8.0)}
        opt.step({'w': grads['w']})
        opt.step(grads)
        params['b'].value = jnp.full(8, 2.0)
        opt.step({'b': grads['b']})
        opt.load_state_dict(opt.state_dict())
        opt.step(grads)
        ends.append(opt)
    report['a group that nobody placed'] = unequal(ends[1], ends[0])

    name = 'two States with one shard'  # which a program that takes the one over must not lose
    net, target = ParamState(jnp.arange(64.0)), ParamState(jnp.zeros(64))
    target.value = net.value
    for state in (net, target):
        state.value = jax.device_put(state.value, whole)
    opt = bo.SGD(0.5).register_trainable_weights({'w': net})
    loss = bo.train_step([net, target], opt, lambda: jnp.sum((net.value - target.value - 1) ** 2))()
    wrong = float(loss) != 64.0 or not np.array_equal(target.value, np.arange(64.0))
    report[name] = [f'{loss}, {target.value}'] if wrong else []

    # In a loop the compiler would follow the layout of the one for the other, and keep that.
    start = jnp.sin(jnp.arange(32.0)).reshape(8, 4)
    ends = []
    for sharded in (False, True):
        put = place if sharded else lambda x, *_: jnp.copy(x)
        params = {'part': ParamState(put(start, 'data')), 'whole': ParamState(put(start))}
        opt = bo.Adam(0.1).register_trainable_weights(params)
        early = dict(arrays(opt))
        bo.train_step(
            params, opt, lambda p=params: jnp.sum(p['part'].value * p['whole'].value) ** 2
        ).scan(length=3)
        ends.append(opt)
    report['a whole beside a part, scanned'] = moved(early, opt) + unequal(ends[1], ends[0])

    # XLA's language does not say which devices a closure puts arrays on.
    report['a closure on other devices'] = found = []
    w = ParamState(jnp.ones(4))
    opt = bo.LBFGS(0.5, max_iter=2).register_trainable_weights({'w': w})
    for few in (jax.devices()[:2], jax.devices()[2:4]):
        pair = Mesh(np.array(few), ('data',))
        halves = NamedSharding(pair, PartitionSpec('data'))
        w.value = jax.device_put(w.value, halves)
        opt._core.value = jax.device_put(opt._core.value, NamedSharding(pair, PartitionSpec()))
        opt.step(
            lambda halves=halves: (jax.lax.with_sharding_constraint(2 * w.value, halves) ** 2).sum()
        )
        if w.value.sharding.device_set != set(few):
            found.append(f'w is on {w.value.sharding}')

    print(json.dumps(report))


if __name__ == '__main__':
    main()
