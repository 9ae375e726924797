"""Whether anybody would notice a State being read or written past its public property.

``State.value`` records every access for brainstate's traces and runs hooks, which makes up a
third of a small step. Where no trace and no hook is active, values may be taken and put directly.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from operator import attrgetter
from typing import Any

import jax
import numpy as np
from brainstate import State
from brainstate._state import TRACE_CONTEXT  # the only place that knows of active State traces
from brainstate._state_global_hooks import GlobalHookRegistry
from jax._src.core import trace_state_clean  # brainstate's own comparison takes thrice as long

from .compiled import CONFIG

__all__ = [
    *(
        'announce',
        'any_hooks',
        'asked_for',
        'in_foreign_trace',
        'in_loop',
        'is_plain',
        'outside_of_traces',
        'recorded',
        'traced',
        'transfers_are_guarded',
        'unobserved',
    ),
    'x64_enabled',
]

_has_hooks = attrgetter('_has_hooks')
_LOOP = re.compile('scan$|while:body$')  # what brainstate calls its traces of loops


def recorded() -> bool:
    """Whether brainstate records which States are read and written at present."""
    return bool(TRACE_CONTEXT.state_stack)


def announce(copies: Collection[State]) -> None:
    """Tell who catches new States, as ``vmap_new_states`` does, of copies: those have no maker."""
    for catcher in TRACE_CONTEXT.new_state_catcher:
        for state in copies:
            catcher.append(state)


def outside_of_traces(state: State) -> Any:
    """Return the value that a State has, or had before brainstate began to trace."""
    for trace in TRACE_CONTEXT.state_stack:
        if (number := trace._state_id_index.get(id(state))) is not None:
            return trace._original_state_values[number]
    return state._value


def in_loop() -> bool:
    """Whether brainstate traces the body of a loop, in which a State keeps its dtype."""
    return any(_LOOP.search(trace.name or '') for trace in TRACE_CONTEXT.state_stack)


def traced() -> bool:
    """Whether a brainstate or JAX transformation is tracing at present."""
    return bool(TRACE_CONTEXT.state_stack) or not trace_state_clean()


def in_foreign_trace(state: State) -> bool:
    """Whether plain JAX, without brainstate, traces a program outside of which a State was made."""
    return (
        not trace_state_clean()
        and not TRACE_CONTEXT.state_stack
        and not state._trace_state.is_valid()
    )


def x64_enabled() -> bool:
    """Whether JAX computes in double precision at present."""
    return bool(CONFIG.jax_enable_x64)


def transfers_are_guarded() -> bool:
    """Whether JAX reports or refuses what moves to a device unasked."""
    return CONFIG.jax_transfer_guard_host_to_device not in (None, 'allow')


def asked_for(number: Any) -> Any:
    """Return a number that a program takes, moved to the device where guards want that said."""
    is_host = isinstance(number, np.ndarray | np.generic)
    return jax.device_put(number) if is_host and transfers_are_guarded() else number


def _hooked_everywhere() -> bool:
    registry = GlobalHookRegistry._instance
    return registry is not None and _has_hooks(registry)


def any_hooks(managers: Iterable[Any]) -> bool:
    """Whether a hook watches every State, or one of those with these hook managers."""
    return _hooked_everywhere() or any(map(_has_hooks, managers))


def unobserved(state: State) -> bool:
    """Whether nobody would notice a plain value being written into a State."""
    return not (TRACE_CONTEXT.state_stack or _hooked_everywhere() or _has_hooks(state.hooks))


def is_plain(cls: type[State]) -> bool:
    """Whether reading and writing ``_value`` is all that States of this class do."""
    own = ('value', '_read_value', '_write_value', '__setattr__')
    return all(getattr(cls, name) is getattr(State, name) for name in own)
