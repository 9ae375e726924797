"""Quad and Skew on a mesh with a pipeline axis, automatic and explicit.

The checks run in a process of their own with eight host devices: this file, as a script. It
prints a JSON object with a list of complaints for every case.
"""

import json

from on_mesh import complaints_of

KINDS = ['Auto', 'Explicit']
CASES = ['init', 'jitted init', 'step', 'with specs of parameters', 'class', 'checkpoint']
CASES += ['a size that does not fit']


def test_on_a_mesh():
    complaints = complaints_of(__file__)
    assert set(complaints) == {f'{case} {kind}' for case in CASES for kind in KINDS}
    assert {what: found for what, found in complaints.items() if found} == {}


# ---- what the other process runs ---------------------------------------------------------------


def main():
    import brainstate  # noqa: F401
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from brainstate import ParamState
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    import braintools_optim as bo
    from braintools_optim import transforms

    assert len(jax.devices()) == 8
    is_spec = lambda x: isinstance(x, PartitionSpec)  # noqa: E731
    specs = {
        'w': PartitionSpec('pp', 'mp'),
        'b': PartitionSpec('mp'),
        't': PartitionSpec('pp'),
        's': PartitionSpec(),
        'e': PartitionSpec(None, 'mp'),
    }
    rng = np.random.default_rng(0)
    shapes = {'w': (20, 24), 'b': (8,), 't': (4, 16, 8), 's': (), 'e': (40, 8)}
    plain = {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}
    options = {
        **{'dtype': 'float32', 'block_size': 8, 'max_size_dense': 30},
        **{'norm_estimator': 'power', 'noise_scale': 0.0},
        'scanned_layers': {k: k == 't' for k in shapes},
    }
    pipeline = {'pipeline_axis_name': 'pp', 'pipeline_axis_size': 4}

    def gradients(params, t):
        return jax.tree.map(lambda p: jnp.sin(3.0 * p + t), params)

    def trained(tx, params, state):
        @jax.jit
        def step(params, state, t):
            updates, state = tx.update(gradients(params, t), state, params)
            return optax.apply_updates(params, updates), state

        for t in range(3):
            params, state = step(params, state, float(t))
        return params, state

    def elsewhere(tree, wanted, mesh):
        flat = jax.tree_util.tree_flatten_with_path(tree)[0]
        return [
            f'{jax.tree_util.keystr(path)}: {x.sharding} is not {spec}'
            for (path, x), spec in zip(flat, jax.tree.leaves(wanted, is_leaf=is_spec), strict=True)
            if not x.sharding.is_equivalent_to(NamedSharding(mesh, spec), x.ndim)
        ]

    def unequal(got, want):
        return [k for k in want if not np.allclose(got[k], want[k], rtol=2e-5, atol=2e-6)]

    tx = transforms.quad(0.1, **options)
    want, _ = trained(tx, plain, tx.init(plain))
    report = {}
    for kind in KINDS:
        mesh = jax.make_mesh((4, 2), ('pp', 'mp'), axis_types=(getattr(AxisType, kind),) * 2)
        params = {k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in plain.items()}
        tx = transforms.quad(0.1, **options, **pipeline)
        wanted = transforms.get_opt_state_partition_specs(params, **options, **pipeline)
        assert wanted[0].Ql['w'] == PartitionSpec('pp')
        complaint = 'nothing was refused'
        try:
            transforms.quad(0.1, **options, pipeline_axis_name='pp').init(params)
        except ValueError as error:
            said = "pipeline_axis_size must be a multiple of 4, the size of the mesh axis 'pp'"
            complaint = '' if said in str(error) else str(error)
        report[f'a size that does not fit {kind}'] = complaint
        state = tx.init(params)
        report[f'init {kind}'] = elsewhere(state, wanted, mesh)
        named = jax.tree.map(lambda s, m=mesh: NamedSharding(m, s), wanted, is_leaf=is_spec)
        with jax.set_mesh(mesh):
            jitted = jax.jit(tx.init, out_shardings=named)(params)
        report[f'jitted init {kind}'] = elsewhere(jitted, wanted, mesh)
        new, state = trained(tx, params, state)
        report[f'step {kind}'] = [
            *(elsewhere(state, wanted, mesh) + elsewhere(new, specs, mesh)),
            *unequal(new, want),
        ]
        said = {**options, **pipeline, 'params_partition_specs': specs}
        tx = transforms.quad(0.1, **said)
        new, state = trained(tx, params, tx.init(params))
        wanted = transforms.get_opt_state_partition_specs(plain, **said)
        found = elsewhere(state, wanted, mesh) + elsewhere(new, specs, mesh)
        report[f'with specs of parameters {kind}'] = found + unequal(new, want)

        def build(params=params):
            states = {k: ParamState(jnp.copy(v)) for k, v in params.items()}
            opt = bo.Quad(0.1, **options, **pipeline).register_trainable_weights(states)
            return opt, states

        def values(states):
            return {k: s.value for k, s in states.items()}

        opt, states = build()
        first = elsewhere(opt.opt_state.value[0], wanted[0], mesh)
        for t in range(3):
            opt.step(gradients(values(states), float(t)))
        report[f'class {kind}'] = [
            *(first + elsewhere(opt.opt_state.value[0], wanted[0], mesh)),
            *(elsewhere(values(states), specs, mesh) + unequal(values(states), want)),
        ]
        again, others = build()
        for k, s in others.items():
            s.value = jnp.copy(states[k].value)
        again.load_state_dict(opt.state_dict())
        found = elsewhere(again.opt_state.value[0], wanted[0], mesh)
        for o, s in ((opt, states), (again, others)):
            o.step(gradients(values(s), 3.0))
        report[f'checkpoint {kind}'] = found + [
            k for k in others if not np.array_equal(others[k].value, states[k].value)
        ]
    print(json.dumps(report))


if __name__ == '__main__':
    main()
