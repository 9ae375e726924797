"""Trajectories of other implementations on fixed gradients, from `golden/`, and how to replay them.

Each file holds the parameters after each of 30 steps on `problem_A.npz`.
"""

from pathlib import Path

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax

GOLDEN = Path(__file__).parent / 'golden'
LEAVES = ('w', 'b', 't', 's')


def problem(kind, dtype=jnp.float32):
    """The arrays of a kind of the problem, by leaf."""
    file = np.load(GOLDEN / 'problem_A.npz')
    return {k: jnp.asarray(file[f'{kind}/{k}'], dtype) for k in LEAVES}


def replay_chain(tx, dtype=jnp.float32):
    """Scan a chain over the problem; return the parameters after each step, and its state."""

    def one(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    @jax.jit
    def run(params, grads):
        (_, state), trajectory = jax.lax.scan(one, (params, tx.init(params)), grads)
        return trajectory, state

    return run(problem('params0', dtype), problem('grads', dtype))


def replay_optimizer(opt, dtype=jnp.float32, extra=lambda t: {}):
    """Step an optimizer over the problem; return the parameters after each step."""
    params = {k: brainstate.ParamState(v) for k, v in problem('params0', dtype).items()}
    opt.register_trainable_weights(params)
    grads, trajectory = problem('grads', dtype), []
    for t in range(30):
        opt.step({k: g[t] for k, g in grads.items()}, **extra(t))
        trajectory.append({k: np.asarray(p.value, np.float32) for k, p in params.items()})
    return {k: np.stack([x[k] for x in trajectory]) for k in LEAVES}


def off_by(trajectory, name):
    """The largest deviation of each leaf from a recorded run, relative to how far that came."""
    file, first = np.load(GOLDEN / f'{name}.npz'), problem('params0')
    assert jax.tree.map(jnp.shape, trajectory) == {k: file[f'params/{k}'].shape for k in LEAVES}
    deviation = {}
    for k in LEAVES:
        theirs = file[f'params/{k}']
        far = np.abs(theirs[-1] - first[k]).max()
        deviation[k] = np.abs(np.float32(trajectory[k]) - theirs).max() / far
    return deviation
