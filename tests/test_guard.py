"""What makes a step fast, kept by counts, not times.

`python tests/test_guard.py` records in `golden/guard.json`, for the installed version of JAX, the
equations that a leaf adds to the step's jaxpr, for the first row of each class. Fewer pass, more
fail.
"""

import json
from importlib import metadata
from pathlib import Path

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    CASES,
    Case,
)
from jax.experimental.sparse import BCOO
from looking import (
    compilations,
)

import braintools_optim as bo
from braintools_optim.engine.computation import Computation
from braintools_optim.engine.leaf import Leaf

RECORD = Path(__file__).parent / 'golden' / 'guard.json'
FIRST: dict[str, Case] = {case.cls.__name__: case for case in reversed(CASES)}
SHAPE = (4, 3)
OWN_STATES = 2  # all that a step writes, and the numbers
every_class = pytest.mark.parametrize('name', sorted(FIRST))


def build(name, leaves):
    """Return the first row's optimizer of equal matrices, its parameters, and gradients."""
    case = FIRST[name]
    params = {f'{i:02d}': brainstate.ParamState(jnp.ones(SHAPE)) for i in range(leaves)}
    opt = case.make().register_trainable_weights(params)
    dense = {k: 0.1 * p.value for k, p in params.items()}
    sparse = 'dense' not in case.cls.gradient_layouts
    return opt, params, jax.tree.map(BCOO.fromdense, dense) if sparse else dense


def jaxprs_in(value):
    """Return the jaxprs among an equation's parameters."""
    if isinstance(value, tuple | list):
        return [inner for x in value for inner in jaxprs_in(x)]
    value = getattr(value, 'jaxpr', value)
    return [value] if hasattr(value, 'eqns') else []


def equations(jaxpr):
    """Count equations, those of jaxprs in them too: of what is called, and of loops' bodies."""
    inner = [j for eqn in jaxpr.eqns for value in eqn.params.values() for j in jaxprs_in(value)]
    return len(jaxpr.eqns) + sum(map(equations, inner))


def step_equations(name, leaves):
    opt, params, grads = build(name, leaves)
    packed, _ = opt._core.value
    values = [p.value for p in params.values()]
    args = values, packed, opt._table.state.value, grads, {}
    return equations(jax.make_jaxpr(Computation.of(opt).compute)(*args).jaxpr)


def equations_per_leaf(name):
    return (step_equations(name, 8) - step_equations(name, 4)) / 4


def version():
    """Return the version of JAX, without its last place: others count other equations."""
    return '.'.join(metadata.version('jax').split('.')[:2])


def record():
    everything = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    everything[version()] = {name: equations_per_leaf(name) for name in sorted(FIRST)}
    RECORD.write_text(json.dumps(everything, indent=1, sort_keys=True) + '\n')


def exceeded(found, recorded, name):
    """Return what to say where a step grew, or nothing."""
    bound = recorded.get(name)
    if bound is not None and found <= bound:
        return ''
    return (
        f'a leaf adds {found:g} equations to the step of {name}; recorded are {bound}. If it must '
        f'be so: python tests/test_guard.py'
    )


@every_class
def test_equations_per_leaf(name):
    found = equations_per_leaf(name)
    assert found > 0
    if (recorded := json.loads(RECORD.read_text()).get(version())) is None:
        pytest.skip(f'nobody has recorded the equations of JAX {version()}')
    said = exceeded(found, recorded, name)
    assert not said, said


def test_the_records_are_of_the_classes_there_are():
    for recorded in json.loads(RECORD.read_text()).values():
        assert recorded.keys() == FIRST.keys()


def test_what_grew_or_is_new_is_told():
    recorded = {'A': 3.0}
    assert exceeded(2.0, recorded, 'A') == exceeded(3.0, recorded, 'A') == ''
    assert 'recorded are 3.0' in exceeded(3.25, recorded, 'A')
    assert 'test_guard.py' in exceeded(1.0, recorded, 'B')


def test_equations_in_equations_are_counted():
    @jax.jit
    def called(x):
        return jnp.sin(x) + 1.0

    def whole(x):
        return jax.lax.cond(x > 0, called, lambda x: -x, x)

    # > convert cond, and in the branches: jit sin add, neg
    assert equations(jax.make_jaxpr(whole)(1.0).jaxpr) == 3 + 3 + 1


def states_of(function):
    """Return the States that a function touches under a transformation, each once."""
    traced = brainstate.transform.StatefulFunction(function)
    traced.make_jaxpr()
    return {id(state): state for state in traced.get_states()}.values()


@every_class
def test_states_of_an_optimizer(name):
    opt, params, grads = build(name, 2)
    touched = list(states_of(lambda: opt.step(grads)))
    assert len(touched) == len(params) + OWN_STATES


SCHEDULERS = {  # with their States: one, and of a composed one those of its parts
    'one': (1, lambda opt: bo.CosineAnnealingLR(opt, T_max=10)),
    'chained': (3, lambda opt: bo.ChainedScheduler([bo.StepLR(opt, 5), bo.LinearLR(opt)])),
    'sequential': (
        3,
        lambda opt: bo.SequentialLR(
            opt, [bo.LinearLR(opt), bo.ExponentialLR(opt, 0.9)], milestones=[3]
        ),
    ),
}


@pytest.mark.parametrize('kind', SCHEDULERS)
def test_states_of_a_scheduler(kind):
    opt, params, grads = build('Adam', 2)
    count, make = SCHEDULERS[kind]
    scheduler = make(opt)

    def step():
        opt.step(grads)
        scheduler.step()

    assert len(states_of(step)) == len(params) + OWN_STATES + count


def test_work_on_groups_grows_with_their_number(monkeypatch):
    """Each chain is shown the parameters of its group, not of all."""
    encode, counts = Leaf.encode, []
    for groups in (4, 8):
        params = {f'p{i}': brainstate.ParamState(jnp.ones(2)) for i in range(groups)}
        opt = bo.SGD(0.1).register_trainable_weights({'p0': params['p0']})
        for i in range(1, groups):
            opt.add_param_group({f'p{i}': params[f'p{i}']}, lr=0.1 * i)
        calls = []
        monkeypatch.setattr(Leaf, 'encode', lambda self, x, n=calls: n.append(0) or encode(self, x))
        opt.step({name: jnp.ones(2) for name in params})
        monkeypatch.setattr(Leaf, 'encode', encode)
        counts.append(len(calls))
    assert counts[1] == 2 * counts[0] > 0


@every_class
def test_one_program_that_takes_over_the_state(name, monkeypatch):
    case = FIRST[name]
    opt, _, grads = build(name, 2)
    live = [k for k in case.live if f'live:{k}' not in case.skip]
    traces, vectors = [], set()
    compute = Computation.compute
    monkeypatch.setattr(Computation, 'compute', lambda *a: traces.append(a) or compute(*a))
    with compilations() as compiled:
        for t in range(5):
            for k in live:
                opt.param_groups[0][k] = case.numbers(t, 0)[k]
            opt.step(grads)
            vectors.add(np.asarray(opt._table.state.value).tobytes())
    assert len(vectors) == (5 if live else 1)
    assert len(traces) == 1
    assert compiled.count('jit(_flat)') == 1
    (program,) = opt._stepper.donating.compiled.values()
    state = jax.tree.leaves(opt._core.value[0])
    aliased = program.memory_analysis().alias_size_in_bytes
    assert aliased >= 0.99 * sum(x.nbytes for x in state)


if __name__ == '__main__':
    record()
