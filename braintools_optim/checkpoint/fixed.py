"""What is fixed at construction and leaves the state as it is, yet decides how a run goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..plain import plain_flag, plainly, shaped_like

if TYPE_CHECKING:
    from ..engine.leaf import Leaf
    from ..optimizer import OptaxOptimizer
    from .judge import Judge

__all__ = ['check_fixed', 'export_fixed', 'leaves_among']


def export_fixed(optimizer: OptaxOptimizer) -> dict[str, Any]:
    """Return what is written of it: what a mask said, and the names of functions."""
    undecayed = [leaf.name for leaf in optimizer._leaves if not leaf.decays]
    constrained = {
        leaf.name: name for leaf in optimizer._leaves if (name := _constraint(leaf)) is not None
    }
    return {
        'skip_nonfinite': optimizer.skip_nonfinite,
        'undecayed': undecayed or None,
        'constrained': constrained or None,
    }


def check_fixed(optimizer: OptaxOptimizer, saved: Any, known: set[str], judge: Judge) -> None:
    """Let the judge know what was built differently, for the parameters ``known`` to both."""
    fixed = judge.as_dict(plainly(saved), 'fixed')
    judge.unknown(fixed, export_fixed(optimizer), 'fixed')
    skips, mine = fixed.get('skip_nonfinite'), optimizer.skip_nonfinite
    if skips is not mine:
        judge.unexpected(f'skip_nonfinite was {skips!r:.80}, here it is {mine}')
    undecayed = shaped_like(fixed.get('undecayed') or [], [''])
    constrained = judge.as_dict(fixed.get('constrained') or {}, 'constrained')
    names = [*undecayed, *constrained] if isinstance(undecayed, list) else [None]
    if not all(isinstance(name, str) for name in names):
        judge.refuse(f'undecayed and constrained must have names of parameters, got {names!r:.80}')
        return
    left_out = {judge.new_name(name) for name in undecayed}
    functions = {judge.new_name(name): function for name, function in constrained.items()}
    for leaf in leaves_among(optimizer, known):
        decays, function = leaf.name not in left_out, _constraint(leaf)
        if decays != leaf.decays:
            judge.unexpected(
                f'decay_mask said {decays} for {leaf.name}, here it says {leaf.decays}'
            )
        if (theirs := shaped_like(functions.get(leaf.name), function)) != function:
            judge.unexpected(
                f'constrain of {leaf.name} was {theirs!r:.80}, here it is {function!r:.80}'
            )


def leaves_among(optimizer: OptaxOptimizer, known: set[str]) -> list[Leaf]:
    """Return the leaves of those parameters that are among the ``known`` ones."""
    names = optimizer.param_states.names
    return [leaf for leaf in optimizer._leaves if names[leaf.state] in known]


def _constraint(leaf: Leaf) -> Any:
    return None if leaf.constraint is None else plain_flag(leaf.constraint)
