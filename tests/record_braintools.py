"""Record checkpoints of braintools.optim 0.3.0, and how its runs go on.

Run by hand: ``python tests/record_braintools.py``; it needs braintools==0.3.0. What it writes to
``golden/braintools`` is read by test_checkpoint_legacy.py, which needs neither.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax

GOLDEN = Path(__file__).parent / 'golden' / 'braintools'
BEFORE, AFTER = 3, 2

ROWS = {
    'OptaxOptimizer': {},
    'SGD': {'momentum': 0.9, 'weight_decay': 0.1, 'grad_clip_norm': 1.0},
    'SGD-plain': {},
    'Momentum': {'momentum': 0.8},
    'MomentumNesterov': {'momentum': 0.8},
    'Adam': {'betas': (0.8, 0.95)},
    'Adam-amsgrad': {'amsgrad': True, 'betas': (0.8, 0.95)},
    'Adam-groups': {},
    'AdamW': {'weight_decay': 0.05},
    'Adagrad': {'lr_decay': 0.1},
    'Adadelta': {},
    'RMSprop': {'eps': 1e-12},
    'RMSprop-centered': {'centered': True, 'momentum': 0.9, 'eps': 1e-12},
    'Adamax': {},
    'Nadam': {},
    'RAdam': {'betas': (0.8, 0.6)},
    'Lamb': {'weight_decay': 0.05},
    'Lars': {'trust_coefficient': 0.5},
    'Yogi': {'eps': 1e-12},
    'LBFGS': {'memory_size': 2},
    'Rprop': {},
    'Adafactor': {},
    'AdaBelief': {},
    'Lion': {'weight_decay': 0.05},
    'SM3': {},
    'Novograd': {},
    'Fromage': {},
    'Lookahead': {'sync_period': 2},
}
RATE = 0.05


def start() -> dict[str, np.ndarray]:
    """Return the first values by name; `w.k` is in a State that is registered under a tuple."""
    draw = np.random.default_rng(5)
    return {k: draw.normal(size=n).astype(np.float32) for k, n in (('a', 3), ('w.k', (4, 3)))}


def gradients(t: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng([6, t])
    return {k: draw.normal(size=v.shape).astype(np.float32) for k, v in start().items()}


def tree(values: dict, name: str) -> dict:
    """Return values under the keys of a model, tuples; braintools takes none in groups."""
    keys = ('a', 'w') if name == 'Adam-groups' else (('net', 'a'), ('net', 'w'))
    return dict(zip(keys, (values['a'], {'k': values['w.k']}), strict=True))


def main() -> None:
    import braintools
    import braintools.file
    import braintools.optim as optim

    warnings.simplefilter('ignore')
    GOLDEN.mkdir(exist_ok=True)
    ends = {'version': np.array(braintools.__version__)}
    for name, kwargs in ROWS.items():
        given = dict(kwargs)
        cls = getattr(optim, name.partition('-')[0])
        values = jax.tree.map(jnp.array, tree(start(), name))
        states = {k: brainstate.ParamState(v) for k, v in values.items()}
        if name == 'Lookahead':
            given['base_optimizer'] = optax.sgd(RATE, momentum=0.9)
        opt = cls(lr=RATE, **given)
        first = dict(states)
        if name == 'Adam-groups':
            del first['w']
        opt.register_trainable_weights(first)
        if name == 'Adam-groups':
            opt.add_param_group({'w': states['w']}, lr=0.02)
        for t in range(BEFORE + AFTER):
            if t == BEFORE:
                path = GOLDEN / f'{name}.msgpack'
                braintools.file.msgpack_save(str(path), opt.state_dict(), verbose=False)
            grads = jax.tree.map(jnp.array, tree(gradients(t), name))
            if name == 'LBFGS':
                # Gradients of a quadratic function: curvature is positive.
                grads = {k: jax.tree.map(lambda x: 2.0 * x, s.value) for k, s in states.items()}
                opt.update(grads, value=jnp.float32(0.0), value_fn=lambda p: jnp.float32(0.0))
            else:
                opt.update(grads)
            if t >= BEFORE:
                last, matrix = (state.value for state in states.values())
                ends[f'{name}.a.{t}'] = np.asarray(last)
                ends[f'{name}.w.k.{t}'] = np.asarray(matrix['k'])
    scheduler = optim.StepLR(0.1, step_size=2)
    opt = optim.SGD(lr=scheduler, momentum=0.9)
    opt.register_trainable_weights({'x': brainstate.ParamState(jnp.ones(2))})
    rates = []
    for t in range(6):
        if t == 3:
            saved = {'opt': opt.state_dict(), 'scheduler': scheduler.state_dict()}
            path = str(GOLDEN / 'StepLR.msgpack')
            braintools.file.msgpack_save(path, saved, verbose=False)
        scheduler.step()
        rates.append(float(opt.current_lr))
    ends['StepLR'] = np.array(rates)
    np.savez_compressed(GOLDEN / 'ends.npz', **ends)


if __name__ == '__main__':
    main()
