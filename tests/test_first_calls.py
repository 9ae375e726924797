"""What is compiled besides the steps themselves: next to nothing, as each program takes time."""

import os
import subprocess
import sys

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from looking import compilations, digest

import braintools_optim as bo
from braintools_optim.engine.chunks import are_many
from braintools_optim.sharding import copies

KINDS = [bo.Adam, bo.Novograd, bo.Quad]


def parameters(*sizes):
    """Return parameters of shapes that no other test has, for which no program is known yet."""
    return {f'p{n}': brainstate.ParamState(jnp.ones((n, 3))) for n in sizes}


def gradients(params):
    return {k: jnp.full_like(p.value, 0.5) for k, p in params.items()}


@pytest.mark.parametrize('cls', KINDS)
def test_a_first_step_compiles_the_step_alone(cls):
    params = parameters(*range(101, 104))
    opt, grads = cls(0.1).register_trainable_weights(params), gradients(params)
    with compilations() as names:
        opt.step(grads)
    assert len(names) == 1
    held = opt.opt_state.value
    with compilations() as names:
        opt.step(grads)
    assert not names  # though what somebody holds was copied
    assert not any(x.is_deleted() for x in jax.tree.leaves(held))


def test_a_first_step_over_many_parameters_copies_without_programs():
    params = {f'p{i}': brainstate.ParamState(jnp.ones((2, 107))) for i in range(1000)}
    opt = bo.Momentum(0.1).register_trainable_weights(params)
    assert are_many(opt._leaves)
    grads = gradients(params)
    with compilations() as names:
        opt.step(grads)
    assert not [name for name in names if 'copy' in name]


def test_a_first_train_step_compiles_the_step_alone():
    params = parameters(*range(111, 114))
    opt = bo.Adam(0.1).register_trainable_weights(params)
    train = bo.train_step(params, opt, lambda x: sum(jnp.sum(p.value * x) for p in params.values()))
    x = jnp.float32(2.0)
    with compilations() as names:
        train(x)
    assert len(names) == 1


@pytest.mark.parametrize('cls', KINDS)
def test_loading_compiles_nothing(cls):
    params = parameters(*range(121, 124))
    opt = cls(0.1).register_trainable_weights(params)
    before = digest(opt, params)
    saved = jax.tree.map(
        lambda x: np.asarray(x) if isinstance(x, jax.Array) else x, opt.state_dict()
    )
    with compilations() as names:
        opt.load_state_dict(saved)
    assert not names
    assert digest(opt, params) == before


def test_first_factors_are_one_program_for_each_size():
    with compilations() as names:
        bo.Quad(0.1).register_trainable_weights(
            {
                'w': brainstate.ParamState(jnp.ones((131, 137))),
                'v': brainstate.ParamState(jnp.ones((137, 131))),
            }
        )
    assert names.count('jit(_first_factors)') == 2
    assert set(names) == {'jit(_first_factors)', 'jit(broadcast_in_dim)'}


def test_copies_are_the_same_arrays_elsewhere():
    host = np.arange(3.0, dtype=np.float32)
    weak = jnp.asarray(2.5)
    given = [jnp.arange(5), jnp.ones(3, jnp.bfloat16), weak, host, 1.5, jax.random.key(3)]
    own = copies(given)
    assert [x.dtype for x in own] == [jnp.result_type(x) for x in given]
    assert [x.weak_type for x in own[:5]] == [False, False, True, False, True]
    assert not any(x.committed for x in own)
    numbers = own[:-1]
    for x, y in zip(given, numbers, strict=False):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
    assert jax.random.bits(own[-1]) == jax.random.bits(given[-1])
    jax.jit(lambda *xs: [x + 1 for x in xs], donate_argnums=range(5))(*numbers)
    assert not any(x.is_deleted() for x in given if isinstance(x, jax.Array))


def test_a_copy_does_not_use_the_memory_of_the_host():
    memory = np.zeros(1024 + 16, np.float32)
    start = -(memory.ctypes.data // memory.itemsize) % 16
    host = memory[start : start + 1024]  # JAX would use memory that lies at a multiple of 64 bytes
    (own,) = copies([host])
    host[:] = 7.0
    assert not own.any()


def test_copies_of_committed_and_traced_arrays():
    there = jax.device_put(jnp.ones(3), jax.devices()[0])
    assert copies([there])[0].committed
    got = jax.jit(lambda x: copies([x, np.ones(3, np.float32)]))(there)
    assert [x.tolist() for x in got] == [[1.0] * 3] * 2


def test_state_is_copied_where_transfers_are_refused():
    params = parameters(141)
    opt, grads = bo.Adam(0.1).register_trainable_weights(params), gradients(params)
    opt.step(grads)
    opt.step(grads)
    held = opt.opt_state.value
    with jax.transfer_guard_device_to_device('disallow_explicit'):
        opt.step(grads)
    assert not any(x.is_deleted() for x in jax.tree.leaves(held))


IN_A_NEW_PROCESS = """
import sys
from collections import Counter

import brainstate
import jax
import jax.numpy as jnp

import braintools_optim as bo

jax.config.update('jax_compilation_cache_dir', sys.argv[1])
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
seen = Counter()
jax.monitoring.register_event_listener(lambda event, **_: seen.update([event.rsplit('/')[-1]]))
params = {name: brainstate.ParamState(jnp.ones(n)) for name, n in {'a': 2, 'b': 3, 'c': 3}.items()}
opt = bo.Adam(0.1, grad_clip_norm=1.0, amsgrad=True, accumulate_steps=2)
opt.register_trainable_weights({k: params[k] for k in 'ba'})
opt.add_param_group({'c': params['c']}, lr=0.2, weight_decay=0.1)
grads = {name: p.value for name, p in params.items()}
train = bo.train_step(params, opt, lambda: sum(jnp.sum(p.value**2) for p in params.values()))
for step in (lambda: opt.step(grads), train, brainstate.transform.jit(lambda: opt.step(grads))):
    seen.clear()
    step()
    print(seen['cache_hits'], seen['cache_misses'])
"""


def test_programs_are_the_same_in_another_process(tmp_path):
    """So JAX finds them in its cache on disk."""
    counts = []
    for seed in '12':  # of the order in which Python has the entries of a set
        command = [sys.executable, '-W', 'error', '-c', IN_A_NEW_PROCESS, str(tmp_path)]
        env = {**os.environ, 'PYTHONHASHSEED': seed}
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        counts.append([tuple(map(int, line.split())) for line in done.stdout.splitlines()])
    assert [misses for _, misses in counts[0]] == [1, 1, 1]
    assert counts[1] == [(1, 0)] * 3
