"""Copying an optimizer as a whole: its state, over the same parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import jax
import jax.numpy as jnp
from brainstate import State

from .engine.observe import recorded
from .engine.own_state import CountState
from .engine.running import Running
from .rates import states_of
from .state import OptimState, RegisteredStates, UniqueStateManager, with_copies

if TYPE_CHECKING:
    from .optimizer import OptaxOptimizer

__all__ = ['Copied', 'found_params']

_STATES = frozenset(['_core', '_number_state', '_scheduler_states'])


class Copied:
    """Mixin of `OptaxOptimizer`: being copied, pickled, or taken apart by brainstate."""

    def __deepcopy__(self, memo: dict) -> Any:
        return _independent_copy(self, memo)  # type: ignore[arg-type]  # mixed into one

    def __copy__(self) -> NoReturn:
        raise TypeError(
            f'two {type(self).__name__} cannot share their state; copy.deepcopy gives an '
            f'independent optimizer over the same parameters.'
        )

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f'{type(self).__name__} cannot be pickled, since it shares its parameters with a '
            f'model; pickle opt.state_dict(), build the optimizer anew and call load_state_dict.'
        )

    @property
    def graph_invisible_attrs(self) -> tuple[str, ...]:
        """What brainstate's graph functions neither split nor merge: all but States of its own."""
        users = {
            name
            for name, value in vars(self).items()
            if isinstance(value, State) and not isinstance(value, OptimState)
        }
        return tuple(vars(self).keys() - _STATES - users)


def found_params(optimizer: OptaxOptimizer) -> RegisteredStates:
    """Return the parameters of a copy that is asked for them the first time."""
    registered = RegisteredStates(type(optimizer).__name__)
    registered.adopt(optimizer.__dict__['_find_params']())
    optimizer.__dict__['param_states'] = registered
    del optimizer.__dict__['_find_params']
    return registered


def _params(original: UniqueStateManager, memo: dict, traced: bool) -> UniqueStateManager:
    """Return the parameters of a copy; raise for those that were copied while they were traced."""
    found = with_copies(original, memo)
    if traced and any(mine is not theirs for mine, theirs in zip(found, original, strict=True)):
        raise ValueError(
            'a model was copied in a function that is being traced: brainstate copies the values '
            'that its States have outside, which would stay in the compiled program. Copy it '
            'outside, and assign the values of its States inside.'
        )
    return found


def _states_in(value: Any) -> Iterator[State]:
    """Give the States in an attribute's value."""
    if isinstance(value, State):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _states_in(part)


def _copied_state(state: State) -> State:
    """Return a State with a copy of its value: Python cannot copy where States come from."""
    new = state.copy()
    new.restore_value(
        jax.tree.map(
            lambda x: jnp.array(x) if isinstance(x, jax.Array) else copy.deepcopy(x), state.value
        )
    )
    return new


def _independent_copy(optimizer: OptaxOptimizer, memo: dict) -> OptaxOptimizer:
    """Return an independent optimizer over the same parameters, for :func:`copy.deepcopy`.

    Of a model that is copied in the same call, before it or after, it takes the copied parameters:
    it looks for them when it is first asked for its parameters.
    """
    optimizer._core.refuse_several()
    new = memo[id(optimizer)] = object.__new__(type(optimizer))
    core, table = optimizer._core.duplicate(), optimizer._table.copy()
    traced = recorded() and not all(s._trace_state.is_valid() for s in optimizer.param_states)
    # What another optimizer drives, as a Lookahead does with its base's, is copied with that one.
    schedulers = {
        id(s): s.copy(new, memo) if s.optimizer is optimizer else s
        for s in optimizer._all_schedulers()
    }
    own = {
        '_core': core,
        'step_count': CountState(core, optimizer.accumulate_steps),
        '_table': table,
        '_number_state': table.state,
        '_groups': [group.of_copy(new) for group in optimizer._groups],
        '_find_params': partial(_params, optimizer.param_states.copy(), memo, traced),
        '_lr_scheduler': schedulers[id(optimizer._lr_scheduler)],
        '_schedulers': [schedulers[id(s)] for s in optimizer._schedulers],
        '_scheduler_states': states_of(schedulers.values()),
        '_stepper': None,
        '_running': Running(optimizer._running.rate_is_read),
        '_tx': optimizer._tx,
    }
    for name, value in optimizer.__dict__.items():
        if name not in own and name != 'param_states':
            for state in _states_in(value):
                if state in optimizer.param_states:
                    raise TypeError(
                        f'{name} of {type(optimizer).__name__} is one of its parameters, of which '
                        f'a copy may have others: find it in opt.param_states when it is needed.'
                    )
                memo.setdefault(id(state), _copied_state(state))
            new.__dict__[name] = copy.deepcopy(value, memo)
    new.__dict__.update(own)
    for group in new._groups:  # a chain from default_tx reads the scheduler it was built with
        group.fixed_chain = new._fixed_chain(group.hyper())
    return new
