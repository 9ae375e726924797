"""Checkpoints of ``braintools.optim`` 0.3.0, translated into snapshots of an optimizer here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
from saiunit import Quantity

from ..errors import CheckpointError
from ..plain import plainly, shaped_like
from .export import export, named_slots, slot_name
from .judge import Judge, LoadReport
from .legacy_slot import Chain, translated
from .pending import take_over
from .restore import Saved

if TYPE_CHECKING:
    from ..optimizer import OptaxOptimizer

__all__ = ['import_braintools']

# In braintools every group but the first runs Adam, whatever the optimizer.
ADAM = ('Adam', 'AdamW', 'OptaxOptimizer')
_FOLLOWS = ('T_cur', 'T_i')  # what a scheduler's snapshot has, and its epoch says already


def import_braintools(
    source: str | os.PathLike | Mapping[str, Any],
    optimizer: OptaxOptimizer,
    *,
    scheduler: Mapping[str, Any] | None = None,
    params: bool = False,
    strict: bool = True,
    cast: bool = False,
) -> LoadReport:
    """Take over a checkpoint of the same class of ``braintools.optim`` 0.3.0, or nothing of it.

    It holds moments, counts, learning rates and weight decays; all other numbers stay as this
    optimizer has them, so construct it as that one was. Its format has no checksums: damage goes
    unnoticed unless it changes a shape or a name.

    Parameters
    ----------
    source : str or dict
        A file that ``braintools.file.msgpack_save`` wrote of ``state_dict()``, or that dict.
    optimizer : OptaxOptimizer
        With the same parameters under the same names, in the same groups.
    scheduler : dict, optional
        The ``state_dict()`` of its scheduler, loaded into this optimizer's.
    params : bool
        Take the parameters over, too, which braintools saves and does not load.
    strict, cast : bool
        As in :meth:`OptaxOptimizer.load_state_dict`.
    """
    if not hasattr(optimizer, 'param_states'):
        raise TypeError(
            f'import_braintools takes a checkpoint, and then the optimizer that goes on with it; '
            f'got {type(optimizer).__name__} for the optimizer.'
        )
    if not isinstance(scheduler, Mapping | None):
        raise TypeError(
            f'import_braintools takes the state_dict() of the scheduler there, got '
            f'{type(scheduler).__name__}.'
        )
    if not len(optimizer.param_states):
        raise CheckpointError(
            'import_braintools needs the parameters; call register_trainable_weights first.'
        )
    judge = Judge(strict, cast)
    saved = _nested(source if isinstance(source, Mapping) else _read(source))
    saved = judge.as_dict(saved, 'the checkpoint')
    for key in ('step_count', 'opt_state', 'param_groups'):
        if key not in saved:
            judge.refuse(f'{key!r} is missing: this is no checkpoint of braintools.optim')
    groups = judge.as_dict(saved.get('param_groups', {}), 'param_groups')
    for key, group in groups.items():
        judge.as_dict(group, f'group {key}')
    if scheduler is not None:
        _check_schedule(optimizer, scheduler, judge)
    judge.conclude()
    state = _translated_state(optimizer, saved, judge)
    if scheduler is not None:
        mine = {k: v for k, v in state['schedulers'][0].items() if k not in _FOLLOWS}
        theirs = _translated_schedule(optimizer, plainly(_nested(scheduler)))
        state['schedulers'][0] = mine | theirs
    held = _translated_params(optimizer, saved) if params else None
    return take_over(optimizer, Saved(state, held), judge)


def _translated_state(
    optimizer: OptaxOptimizer, saved: Mapping[str, Any], judge: Judge
) -> dict[str, Any]:
    state = export(optimizer)
    state.pop('accumulate_steps', None)  # which is not there
    state['step_count'] = plainly(saved['step_count'])
    theirs, mine = saved['param_groups'], state['param_groups']
    state['param_groups'] = {key: mine.get(key, {}) for key in theirs}
    state['opt_state'] = {key: {} for key in theirs}
    later = saved.get('param_groups_opt_states', {})
    for group in optimizer.param_groups:
        key = str(group.index)
        if key not in theirs:
            continue
        taken = {'weight_decay'} if _ignores_rate(optimizer) else {'lr', 'weight_decay'}
        for name in taken & set(theirs[key]) & set(mine[key]):
            mine[key][name] = plainly(theirs[key][name])
        if group.index and type(optimizer).__name__ not in ADAM:
            judge.unexpected(
                f'group {key} ran Adam, as all groups but the first do in braintools.optim; '
                f'{type(optimizer).__name__} cannot go on with its state'
            )
            continue
        tree = saved['opt_state'] if group.index == 0 else later.get(str(group.index - 1), {})
        values = theirs[key].get('params', {})
        chain = Chain(tree, values, state['step_count'], mine[key], type(optimizer).__name__)
        state['opt_state'][key] = _translated_slots(optimizer, group, chain)
    return state


def _ignores_rate(optimizer: OptaxOptimizer) -> bool:
    """Whether braintools does not apply the learning rate that is in its checkpoints."""
    return any(c.__name__ == 'Lookahead' for c in type(optimizer).__mro__)


def _translated_slots(optimizer: OptaxOptimizer, group: Any, chain: Chain) -> dict[str, Any]:
    slots, names = named_slots(optimizer, group)
    found: dict[str, dict[str, Any]] = {}
    for slot in slots:
        entry = found.setdefault(slot.name, {})
        owners = names if slot.per_leaf else {slot.parameter: slot_name(slot, names)}
        for path, name in owners.items():
            value = translated(chain, slot, path, list(names))
            if value is None and slot.name == 'master':
                value = slot.value  # it follows the parameters
            if value is not None:
                entry[name] = plainly(value) if slot.per_leaf else _widened(value, slot.value)
    return found


def _widened(value: Any, like: Any) -> np.ndarray:
    """Return an array in the dtype of the live one, if that can hold all its numbers."""
    value = np.asarray(value)
    safe = jnp.promote_types(value.dtype, like.dtype) == like.dtype
    same = jnp.issubdtype(value.dtype, jnp.floating) == jnp.issubdtype(like.dtype, jnp.floating)
    return value.astype(like.dtype) if safe and same else value


def _check_schedule(optimizer: OptaxOptimizer, saved: Mapping[str, Any], judge: Judge) -> None:
    """Refuse what is no snapshot of a scheduler there, or none for the scheduler here."""
    for key in ('base_lrs', 'last_epoch'):
        if key not in saved:
            judge.refuse(f'the scheduler: {key!r} is missing; it has {sorted(map(str, saved))}')
    if hasattr(optimizer.lr, 'schedulers'):
        judge.refuse(
            f'the scheduler: that of this optimizer is a {type(optimizer.lr).__name__}, and '
            f'states of composed schedulers are not translated'
        )


def _translated_schedule(optimizer: OptaxOptimizer, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a scheduler's snapshot there is here, for a scheduler that is no composite."""
    saved = shaped_like(saved, {'base_lrs': [], 'current_lrs': []})
    rates = optimizer.get_last_lr()
    bases = [*saved['base_lrs'], *optimizer.lr.base_lrs[len(saved['base_lrs']) :]]
    given = saved.get('current_lrs', [])
    now = [*given, *rates[len(given) :]]
    plateau = ('best', 'num_bad_epochs', 'cooldown_counter')
    more = {k: saved[k] for k in plateau if k in saved}
    return {
        'last_epoch': saved['last_epoch'],
        **{'base_lrs': bases, 'starts': bases, 'written': now, 'current_lrs': now, **more},
    }


def _translated_params(optimizer: OptaxOptimizer, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters by name; braintools keeps no units, so they are those here."""
    arrays: dict[str, Any] = {}
    for leaf in optimizer._leaves:
        for group in saved['param_groups'].values():
            value = Chain.at(group.get('params', {}), leaf.path)
            if value is not None:
                arrays[leaf.name] = value
    return arrays


# ---- files and nested data -----------------------------------------------------------------------


def _read(path: str | os.PathLike) -> Any:
    try:
        return msgpack.unpackb(Path(path).read_bytes(), ext_hook=_extension, strict_map_key=False)
    except OSError:
        raise
    except Exception as error:  # msgpack raises a dozen kinds
        raise CheckpointError(
            f'{os.fspath(path)} is no file that braintools.file.msgpack_save wrote, or it is '
            f'damaged: {type(error).__name__}: {error}'
        ) from error


def _extension(code: int, data: bytes) -> Any:
    """Return an array (1), a complex number (2) or a number of numpy's (3)."""
    if code == 2:
        return complex(*msgpack.unpackb(data))
    if code not in (1, 3):
        raise ValueError(f'unknown extension {code}')
    shape, dtype, buffer = msgpack.unpackb(data, raw=True)
    array = np.frombuffer(buffer, jnp.dtype(dtype.decode())).reshape(shape)
    return array if code == 1 else array[()]


def _nested(node: Any) -> Any:
    """Return nested dicts with strings or tuples as keys, also of lists and named tuples."""
    if isinstance(node, Mapping):
        if '__msgpack_chunked_array__' in node:
            chunks = [node['chunks'][str(i)] for i in range(len(node['chunks']))]
            shape = [node['shape'][str(i)] for i in range(len(node['shape']))]
            return np.concatenate(chunks).reshape(shape)
        return {k: _nested(v) for k, v in node.items()}
    if isinstance(node, tuple) and hasattr(node, '_fields'):
        return {k: _nested(v) for k, v in zip(node._fields, node, strict=True)}
    if isinstance(node, list | tuple):
        return {str(i): _nested(v) for i, v in enumerate(node)}
    if isinstance(node, Quantity):
        return np.asarray(node.mantissa)
    return np.asarray(node) if isinstance(node, jax.Array) else node
