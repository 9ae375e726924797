"""What a step of every algorithm costs, and what it keeps, beside optax's and torch's.

    python -m benchmarks.algorithms [--only Adam,Muon] [--quick] [--json FILE]

Process CPU of an eager step of 5 matrices of 128 x 128 and 5 vectors of 128 (Muon: the matrices
alone) with ready gradients, and bytes of state per parameter. optax: jitted by hand, its state
donated; torch: its single-tensor implementation, on one thread. Quad and Skew stand beside
eformer's, which are chains of optax. Ratios are of ours to theirs: below one, ours costs less.
torch's LBFGS is left out: from gradients that stay the same it learns no curvature, and rests.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import brainstate
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.sparse import BCOO
from optax import contrib

import braintools_optim as bo

from .measure import Step, environment, missing, timed

Maker = Callable[[str, list[float]], Step]

CALLS = 20
LAYERS, SIDE = 5, 128
LR = 1e-3
MATRICES_ALONE = ('Muon',)
EFORMER = 'eformer.optimizers._tx'
OF_EFORMER = {'Mars': 'mars', 'Quad': 'white_kron', 'Skew': 'white_kron'}  # by their modules
OPTIONS: dict[str, Callable[[], Any]] = {'Lookahead': lambda: bo.Lookahead(bo.Adam(LR))}


def eformer(name: str) -> Any:
    module = import_module(f'{EFORMER}.{OF_EFORMER[name]}')
    return getattr(module, name.lower())(LR)


OPTAX: dict[str, Callable[[], Any]] = {
    'SGD': lambda: optax.sgd(LR),
    'Momentum': lambda: optax.sgd(LR, momentum=0.9),
    'MomentumNesterov': lambda: optax.sgd(LR, momentum=0.9, nesterov=True),
    'OptaxOptimizer': lambda: optax.adam(LR),
    'Adam': lambda: optax.adam(LR),
    'AdamW': lambda: optax.adamw(LR, weight_decay=0.01),
    'AdaBelief': lambda: optax.adabelief(LR),
    'Adadelta': lambda: optax.adadelta(1.0),
    'Adafactor': lambda: optax.adafactor(LR),
    'Adagrad': lambda: optax.adagrad(LR),
    'Adamax': lambda: optax.adamax(LR),
    'AdEMAMix': lambda: contrib.ademamix(LR),
    'Fromage': lambda: optax.fromage(LR),
    'Lamb': lambda: optax.lamb(LR),
    'Lars': lambda: optax.lars(LR),
    'LBFGS': lambda: optax.lbfgs(LR, memory_size=10, linesearch=None),
    'Lion': lambda: optax.lion(LR),
    'Lookahead': lambda: optax.lookahead(optax.adam(LR), 5, 0.5),
    'Muon': lambda: contrib.muon(LR),
    'Nadam': lambda: optax.nadam(LR),
    'Novograd': lambda: optax.novograd(LR),
    'RAdam': lambda: optax.radam(LR),
    'RMSprop': lambda: optax.rmsprop(LR),
    'Rprop': lambda: optax.rprop(LR),
    'SM3': lambda: optax.sm3(LR),
    'Yogi': lambda: optax.yogi(LR),
    **{name: functools.partial(eformer, name) for name in OF_EFORMER},
}
TORCH: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {'foreach': False}) for name in ('Adam', 'AdamW', 'ASGD', 'RAdam', 'Rprop')},
    **{name: (name, {'foreach': False}) for name in ('Adadelta', 'Adagrad', 'Adamax', 'RMSprop')},
    'SGD': ('SGD', {'foreach': False}),
    'Momentum': ('SGD', {'momentum': 0.9, 'foreach': False}),
    'MomentumNesterov': ('SGD', {'momentum': 0.9, 'nesterov': True, 'foreach': False}),
    'Nadam': ('NAdam', {'foreach': False}),
    'Adafactor': ('Adafactor', {'foreach': False}),
    'Muon': ('Muon', {}),
    'SparseAdam': ('SparseAdam', {}),
}


@dataclass
class Cost:
    """What an algorithm costs: microseconds of CPU and bytes per parameter; nan: there is none."""

    name: str
    cpu_us: float
    bytes: float
    to_optax: float = math.nan
    optax_bytes: float = math.nan
    to_torch: float = math.nan
    torch_bytes: float = math.nan


def classes() -> dict[str, type[bo.OptaxOptimizer]]:
    """Return every public algorithm, once."""
    public = {getattr(bo, name) for name in bo.__all__}
    found = {x for x in public if isinstance(x, type) and issubclass(x, bo.OptaxOptimizer)}
    return {cls.__name__: cls for cls in sorted(found, key=lambda cls: cls.__name__.lower())}


def gradients(name: str) -> dict[str, jax.Array]:
    """Return gradients, which also give the parameters' shapes."""
    rng = np.random.default_rng(0)
    shapes = {f'w{i}': (SIDE, SIDE) for i in range(LAYERS)}
    if name not in MATRICES_ALONE:
        shapes |= {f'b{i}': (SIDE,) for i in range(LAYERS)}
    return {k: jnp.asarray(0.1 * rng.normal(size=s), jnp.float32) for k, s in shapes.items()}


def sparse(name: str) -> bool:
    return 'dense' not in classes()[name].gradient_layouts


def parameters(name: str) -> dict[str, jax.Array]:
    return {k: jnp.ones(g.shape) for k, g in gradients(name).items()}


def per_parameter(name: str, tree: Any) -> float:
    size = sum(g.size for g in gradients(name).values())
    return sum(x.nbytes for x in jax.tree.leaves(tree)) / size


def ours(name: str, kept: list[float]) -> Step:
    """Return an eager step, and note the bytes of state."""
    parts = {k: brainstate.ParamState(p) for k, p in parameters(name).items()}
    grads: Any = gradients(name)
    if sparse(name):
        grads = jax.tree.map(BCOO.fromdense, grads)
    make = OPTIONS.get(name, classes()[name])
    opt = make().register_trainable_weights(parts)
    kept.append(per_parameter(name, opt.opt_state.value))

    def step() -> Any:
        opt.step(grads)
        return [p.value for p in parts.values()]

    return step


def by_hand(name: str, kept: list[float]) -> Step:
    """Return the same of optax, jitted with its state donated."""
    tx, values, grads = OPTAX[name](), parameters(name), gradients(name)
    params: Any = optax.LookaheadParams.init_synced(values) if name == 'Lookahead' else values
    # some of its states hold an array twice, which cannot be donated twice
    carry = [params, jax.tree.map(jnp.copy, tx.init(params))]
    kept.append(per_parameter(name, carry) - per_parameter(name, values))  # slow ones are state

    @functools.partial(jax.jit, donate_argnums=1)
    def apply(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def step() -> Any:
        carry[:] = apply(*carry, grads)
        return carry[0]

    return step


@functools.cache
def torch_lacks(name: str) -> str:
    """Return why torch has nothing to stand beside an algorithm here."""
    if (reason := missing('torch')) or name != 'Muon':
        return reason
    # Muon multiplies in bfloat16: where the processor claims instructions that the system does not
    # let it use, that kills the process.
    code = 'import torch; x = torch.ones(128, 128).bfloat16(); x @ x.T'
    died = subprocess.run([sys.executable, '-c', code], capture_output=True).returncode
    return f'torch cannot multiply bfloat16 matrices here (exit status {died})' if died else ''


def in_torch(name: str, kept: list[float]) -> Step:
    """Return the same of torch, a tensor at a time."""
    import torch

    torch.set_num_threads(1)  # idle ones spin, and that would count as time of who comes next
    kind, options = TORCH[name]
    params, size = [], 0
    for g in gradients(name).values():
        param = torch.nn.Parameter(torch.ones(g.shape))
        dense = torch.from_numpy(np.array(g))
        param.grad = dense.to_sparse() if sparse(name) else dense
        params.append(param)
        size += g.size
    opt = getattr(torch.optim, kind)(params, lr=LR, **options)
    opt.step()
    tensors: list[Any] = jax.tree.leaves([list(s.values()) for s in opt.state.values()])
    kept.append(sum(x.nbytes for x in tensors if isinstance(x, torch.Tensor)) / size)

    def step() -> Any:
        opt.step()
        return 0

    return step


def peers_of(name: str) -> dict[str, Maker]:
    """Return who has the algorithm here."""
    peers: dict[str, Maker] = {'ours': ours}
    if name in OPTAX and not (name in OF_EFORMER and missing(EFORMER)):
        peers['optax'] = by_hand
    if name in TORCH and not torch_lacks(name):
        peers['torch'] = in_torch
    return peers


def cost(name: str, instances: int = 2, repeats: int = 9) -> Cost:
    """Time one algorithm and its peers in turn, on instances made in alternating order."""
    peers = peers_of(name)
    kept: dict[str, list[float]] = {peer: [] for peer in peers}
    times: dict[str, list[float]] = {peer: [] for peer in peers}
    for instance in range(instances):
        order = list(peers) if instance % 2 == 0 else list(peers)[::-1]
        steps = {peer: peers[peer](name, kept[peer]) for peer in order}
        for step in steps.values():
            for _ in range(3):
                step()
        for _ in range(repeats):
            for peer in peers:
                times[peer].append(timed(steps[peer], CALLS)[0])
    found = Cost(name, 1e6 * statistics.median(times['ours']), kept['ours'][0])
    for peer in list(peers)[1:]:
        ratios = [a / b for a, b in zip(times['ours'], times[peer], strict=True)]
        setattr(found, f'to_{peer}', statistics.median(ratios))
        setattr(found, f'{peer}_bytes', kept[peer][0])
    return found


def measured(names: list[str] | None = None, quick: bool = False) -> list[Cost]:
    """Measure the algorithms, all by default, and print each."""
    rows = []
    for name in names or classes():
        rows.append(cost(name, 1, 5) if quick else cost(name))
        print(table(rows).splitlines()[1 + len(rows)], flush=True)
    return rows


def table(rows: list[Cost]) -> str:
    """Return the rows as a markdown table."""
    lines = [
        '| algorithm | CPU us | of optax | of torch | state bytes per parameter | optax | torch |',
        '|---|---|---|---|---|---|---|',
    ]
    for r in rows:
        ratios = [r.to_optax, r.to_torch]
        sizes = [r.bytes, r.optax_bytes, r.torch_bytes]
        cells = [f'{r.cpu_us:.0f}', *map(shown, [*ratios, *sizes])]
        lines.append(f'| {r.name} | ' + ' | '.join(cells) + ' |')
    absent = {reason for r in rows if r.name in TORCH and (reason := torch_lacks(r.name))}
    absent |= {missing(EFORMER)} - {''}
    return '\n'.join([*lines, *(f'\n{reason}: left out' for reason in sorted(absent))])


def shown(x: float) -> str:
    return '-' if math.isnan(x) else f'{x:.2f}'


def as_dicts(rows: list[Cost]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def main() -> None:
    """Measure what was asked for and print a table."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.algorithms')
    parser.add_argument('--only', help='comma-separated part of ' + ','.join(classes()))
    parser.add_argument('--quick', action='store_true', help='fewer samples, less than a minute')
    parser.add_argument('--json', help='file to write the numbers to')
    given = parser.parse_args()
    about = environment()
    print(' '.join(f'{k}={v}' for k, v in about.items()), flush=True)
    rows = measured(given.only.split(',') if given.only else None, given.quick)
    print('\n' + table(rows))
    if given.json:
        with open(given.json, 'w') as file:
            json.dump({'environment': about, 'rows': as_dicts(rows)}, file, indent=1)


if __name__ == '__main__':
    main()
