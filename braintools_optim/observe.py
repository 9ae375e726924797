"""Whether anybody would notice a State being read or written past its public property.

``State.value`` records every access for brainstate's traces and runs hooks, which makes up a
third of a small step. Where no trace and no hook is active, values may be taken and put directly.
"""

from __future__ import annotations

import jax
from brainstate import State
from brainstate._state import TRACE_CONTEXT  # the only place that knows of active State traces
from brainstate._state_global_hooks import GlobalHookRegistry
from brainstate.util import StateJaxTracer

__all__ = ['has_global_hooks', 'is_plain', 'traced', 'unobserved', 'x64_enabled']

with jax.ensure_compile_time_eval():
    _NO_TRACE = StateJaxTracer()


def traced() -> bool:
    """Whether a brainstate or JAX transformation is tracing at present."""
    return bool(TRACE_CONTEXT.state_stack) or not _NO_TRACE.is_valid()


def x64_enabled() -> bool:
    """Whether JAX computes in double precision at present."""
    return bool(getattr(jax.config, 'jax_enable_x64'))  # noqa: B009  (JAX sets it dynamically)


def has_global_hooks() -> bool:
    """Whether a hook watches every State."""
    return GlobalHookRegistry.instance().has_hooks()


def unobserved(state: State) -> bool:
    """Whether nobody would notice a plain value being written into a State."""
    return not TRACE_CONTEXT.state_stack and not has_global_hooks() and not state.has_hooks()


def is_plain(cls: type[State]) -> bool:
    """Whether reading and writing ``_value`` is all that States of this class do."""
    own = ('value', '_read_value', '_write_value', '__setattr__')
    return all(getattr(cls, name) is getattr(State, name) for name in own)
