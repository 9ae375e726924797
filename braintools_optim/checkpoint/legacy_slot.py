"""Where the state of this library's chains is found in those of ``braintools.optim`` 0.3.0."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..paths import Keys
from ..slot import Slot

__all__ = ['Chain', 'translated']


class Chain:
    """The state of one group's chain there: nested dicts, those of tuples with '0', '1' as keys.

    Parameters
    ----------
    tree : dict
        The state.
    params : dict
        The group's parameters.
    steps : int
        How many steps were made.
    numbers : dict
        The group's hyper-parameters.
    owner : str
        The name of the class.
    """

    def __init__(self, tree: Any, params: Any, steps: int, numbers: Mapping, owner: str):
        self.params, self.steps, self.numbers, self.owner = params, steps, numbers, owner
        self.nodes = list(_nodes(tree))

    def inner(self) -> Chain:
        """Return the chain that Lookahead is over."""
        tree = self.field('fast_state')
        return Chain({} if tree is None else tree, self.params, self.steps, self.numbers, '')

    def field(self, name: str, path: Keys | None = None) -> Any:
        """Return a field of the first transformation that has it, of one parameter if given."""
        for node in self.nodes:
            if name in node:
                return node[name] if path is None else self.at(node[name], path)
        return None

    def count(self) -> int:
        """Return how many updates the transformation with moments made."""
        counts = [n['count'] for n in self.nodes if 'count' in n and len(n) > 1]
        return int(counts[0]) if counts else self.steps

    @staticmethod
    def at(tree: Any, path: Keys) -> Any:
        """Return what stands under a parameter's keys, which files have as text."""
        for key in path:
            if not isinstance(tree, Mapping):
                return None
            tree = tree[key] if key in tree else tree.get(str(key))
        return tree


def _nodes(tree: Any) -> Any:
    """Yield the states of the transformations in a chain: what has names rather than positions."""
    if isinstance(tree, Mapping):
        if all(isinstance(k, str) and k.isdigit() for k in tree):
            for key in sorted(tree, key=int):
                yield from _nodes(tree[key])
        else:
            yield tree


def translated(chain: Chain, slot: Slot, path: Keys | None, order: Sequence[Keys]) -> Any:
    """Return the value of a slot for one parameter (None: for all), None where there is none."""
    name = slot.name
    if name.startswith('fast.'):
        return translated(chain.inner(), slot._replace(name=name[5:]), path, order)
    word = name.rpartition('.')[2]
    special = _OF_CLASS.get((chain.owner, word)) or _RULES.get(word)
    if special is not None:
        return special(chain, slot, path, order)
    return None if path is None else chain.field(word, path)


Rule = Callable[[Chain, Slot, Any, Sequence[Keys]], Any]


def _field(name: str) -> Rule:
    return lambda chain, slot, path, order: chain.field(name, path)


def _count(chain: Chain, slot: Slot, path: Any, order: Any) -> Any:
    return np.asarray(chain.count(), np.int32)


def _since_synchronized(chain: Chain, slot: Slot, path: Any, order: Any) -> Any:
    return chain.count() % chain.numbers['sync_period']


def _variance(chain: Chain, slot: Slot, path: Any, order: Any) -> Any:
    """The square root's argument there is kept as the mean square, and the mean."""
    mean, square = chain.field('mu', path), chain.field('nu', path)
    return None if mean is None or square is None else np.maximum(square - mean * mean, 0)


def _largest(chain: Chain, slot: Slot, path: Any, order: Any) -> Any:
    """There it is the maximum of the corrected moments: what makes the next step the same."""
    most = chain.field('nu_max', path)
    b2 = chain.numbers.get('betas', (0.9, 0.999))[1]
    return None if most is None else (most * (1.0 - b2 ** (chain.count() + 1))).astype(most.dtype)


def _with_rate(chain: Chain, slot: Slot, path: Any, order: Any) -> Any:
    """There the learning rate, and the sign of a step, come behind the momentum, here before it."""
    trace = chain.field('trace', path)
    return None if trace is None else (trace * -chain.numbers['lr']).astype(trace.dtype)


def _first_rate(chain: Chain, slot: Slot, path: Any, order: Any) -> Any:
    return float(np.asarray(chain.numbers['lr'], slot.value.dtype))


def _signs(chain: Chain, slot: Slot, path: Any, order: Any) -> Any:
    moved = chain.field('prev_updates', path)
    return None if moved is None else np.sign(moved)


def _axes(chain: Chain, slot: Slot, path: Any, order: Any) -> Any:
    """The accumulators of all axes, one after the other."""
    axes = chain.field('mu', path)
    if not axes:
        return None
    return np.concatenate([np.ravel(axes[str(i)]) for i in range(len(axes))])


def _factored(name: str) -> Rule:
    """Return a rule for Adafactor: there only large ones are factored, by their longest axes."""

    def rule(chain: Chain, slot: Slot, path: Any, order: Any) -> Any:
        whole, wanted = chain.field('v', path), slot.value.shape
        shape = np.shape(Chain.at(chain.params, path))
        if whole is None:
            return None
        if name == 'nu' or not np.prod(wanted):
            # An empty array here stands for what a parameter does not need.
            return whole if whole.shape == wanted else np.zeros(wanted, whole.dtype)
        axis = {'row': -1, 'col': -2}[name]
        if whole.shape == shape:
            return np.mean(whole, axis, keepdims=True)
        rest = [n for i, n in enumerate(shape) if i != len(shape) + axis]
        taken = np.argsort(shape)[-2:]  # the longest axis goes first, as in optax
        if sorted(taken) != [len(shape) - 2, len(shape) - 1]:
            return None
        kept = 'v_row' if taken[-1] == len(shape) + axis else 'v_col'
        part = chain.field(kept, path)
        return np.expand_dims(part, axis) if list(part.shape) == rest else None

    return rule


# ---- L-BFGS --------------------------------------------------------------------------------------


def _ring(chain: Chain, size: int) -> list[int]:
    """Return the places of the pairs that count, the oldest first.

    There a pair is kept of every update but the first, also those without curvature.
    """
    weights = chain.field('weights_memory')
    count = chain.count()
    known = len(weights)
    places = [i % known for i in range(max(count - 1 - known, 0), max(count - 1, 0))]
    return [i for i in places if 0.0 < weights[i] < 1e10][-size:]


def _size(chain: Chain) -> int:
    return int(chain.numbers['memory_size'])


def _pairs(chain: Chain, slot: Slot, path: Any, order: Any) -> Any:
    return np.asarray(len(_ring(chain, _size(chain))), np.int32)


def _next(chain: Chain, slot: Slot, path: Any, order: Any) -> Any:
    size = _size(chain)
    return np.asarray(len(_ring(chain, size)) % size, np.int32)


def _on_ring(name: str) -> Rule:
    def rule(chain: Chain, slot: Slot, path: Any, order: Any) -> Any:
        memory = chain.field(name, path)
        if memory is None:
            return None
        size = _size(chain)
        ring = np.zeros((size, *memory.shape[1:]), memory.dtype)
        places = _ring(chain, size)
        ring[: len(places)] = memory[places]
        return ring

    return rule


def _scale(chain: Chain, slot: Slot, path: Any, order: Any) -> Any:
    """The curvature of the newest pair, over the square of the gradient's change."""
    places = _ring(chain, _size(chain))
    if not places or not chain.numbers['scale_init_precond']:
        return np.ones((), slot.value.dtype)
    changes = [chain.field('diff_updates_memory', p) for p in order]
    if any(x is None for x in changes):
        return None
    newest = places[-1]
    square = sum(float(np.sum(np.square(x[newest], dtype=np.float64))) for x in changes)
    weight = float(chain.field('weights_memory')[newest])
    return np.asarray(1.0 / (weight * square), slot.value.dtype)


def _last_step(chain: Chain, slot: Slot, path: Any, order: Any) -> Any:
    before, now = chain.field('params', path), Chain.at(chain.params, path)
    if before is None or now is None:
        return None
    return now - before if chain.count() else np.zeros_like(before)


_LBFGS: dict[str, Rule] = {
    'iterations': _count,
    'leaf_seen': _count,
    'pairs': _pairs,
    'slot': _next,
    'scale': _scale,
    'inverse_curvatures': _on_ring('weights_memory'),
    'last_grad': _field('updates'),
    'last_step': _last_step,
    'changes': _on_ring('diff_updates_memory'),
    'steps': _on_ring('diff_params_memory'),
}

_RULES: dict[str, Rule] = {
    'leaf_counts': _count,
    'count': _count,
    'leaf_products': lambda chain, slot, path, order: chain.field('mu_product'),
    'sum': _field('sum_of_squares'),
    'variance': _variance,
    'nu_max': _largest,
    'accumulators': _axes,
    'size': _field('step_sizes'),
    'sign': _signs,
    'leaf_lrs': _first_rate,
}

_OF_CLASS: dict[tuple[str, str], Rule] = {
    ('Lars', 'trace'): _with_rate,
    ('Lookahead', 'leaf_counts'): _since_synchronized,
    ('SM3', 'ema'): _field('nu'),
    **{('Adafactor', name): _factored(name) for name in ('nu', 'row', 'col')},
    **{('LBFGS', name): rule for name, rule in _LBFGS.items()},
}
