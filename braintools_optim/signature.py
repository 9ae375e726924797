"""Signatures that people can read.

The metaclass of brainstate's Node hides constructor signatures, and ``**common`` hides the base
options: here both are shown again, to ``help``, ``inspect`` and editors.
"""

from __future__ import annotations

import inspect
from collections.abc import Container, Sequence
from textwrap import fill
from typing import Any, TypedDict

from .leafwise import is_leafwise
from .ranges import RANGES, range_of

__all__ = [
    'CommonOptions',
    'argument_defaults',
    'argument_names',
    'constructor_documentation',
    'constructor_signature',
]


class CommonOptions(TypedDict, total=False):
    """The options of the base class, which every optimizer passes on by keyword."""

    grad_clip_norm: float | None
    grad_clip_value: float | None
    maximize: bool
    state_dtype: Any
    master_dtype: Any
    mu_dtype: Any
    skip_nonfinite: bool
    accumulate_steps: int
    decay_mask: Any
    constrain: Any


_SAID = {
    'grad_clip_norm': 'bounds the global norm of all gradients of all groups.',
    'grad_clip_value': 'bounds each entry of a gradient.',
    'maximize': 'climbs instead of descending.',
    'state_dtype': 'is the dtype in which the chain computes and keeps its state, such as float32 '
    'for parameters in bfloat16.',
    'master_dtype': 'is that of a copy of narrower parameters, which is updated, so that no update '
    'is lost in rounding.',
    'mu_dtype': 'is the dtype of the first moment, or of the momentum.',
    'skip_nonfinite': 'lets a step with an inf or nan in any gradient change no parameter and no '
    'moment.',
    'accumulate_steps': 'lets only every so many-th step update, by the mean of the gradients of '
    'these steps.',
    'decay_mask': 'says which parameters decay.',
    'constrain': "is a function, or a tree of them, that is given a parameter's value after each "
    'update and returns the value to keep.',
}
"""What each of these options does."""


def constructor_documentation(cls: Any) -> str | None:
    """Return what the class says of itself, what its numbers may be, and what ``**common`` is."""
    own = cls.__dict__.get('__doc__')
    parameters = inspect.signature(cls.__init__).parameters.values()
    if own is None or not any('CommonOptions' in str(p.annotation) for p in parameters):
        return own
    theirs = getattr(cls, 'ranges', {})
    limited = [p.name for p in parameters if p.name in RANGES or p.name in theirs]
    ranges = ',\n'.join(f'``{name}`` in {range_of(name, theirs)}' for name in limited)
    taken = constructor_signature(cls).parameters
    said = ' '.join(f'``{name}`` {text}' for name, text in _SAID.items() if name in taken)
    common = fill(f'{said} :class:`OptaxOptimizer` tells more.', 96, break_on_hyphens=False)
    sections = {'Ranges': ranges, 'Options of every optimizer': common}
    parts = [f'{title}\n{"-" * len(title)}\n{text}' for title, text in sections.items() if text]
    return '\n\n'.join([inspect.cleandoc(own), *parts])


def constructor_signature(cls: Any) -> inspect.Signature:
    """Return the signature of ``cls(...)`` with ``**common`` written out, less what it refuses."""
    shown = _shown([c for c in cls.__mro__ if '__init__' in vars(c)])
    own = inspect.signature(cls.__init__).parameters
    refused = _refused(cls, shown.keys()) - own.keys()
    return inspect.Signature([p for name, p in shown.items() if name not in refused])


def _shown(constructors: Sequence[Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of the first of these constructors, and of those to which it passes on.

    ``**rest`` stands for what the next one takes, unless the annotation says that it is only the
    options of every optimizer; ``*args`` for what that takes by position.
    """
    first, *others = constructors
    _, *given = inspect.signature(first.__init__).parameters.values()
    rest = next((p for p in given if p.kind is p.VAR_KEYWORD), None)
    if rest is None or _takes_all(first) or not any(map(_takes_all, others)):
        return {p.name: p for p in given}
    own = {p.name: p for p in given if p is not rest}
    if 'CommonOptions' in str(rest.annotation) or _takes_all(others[0]):
        base = inspect.signature(next(filter(_takes_all, others)).__init__).parameters
        passed = {k: base[k].replace(kind=rest.KEYWORD_ONLY) for k in CommonOptions.__annotations__}
    else:
        passed = _shown(others)
    stars = [name for name, p in own.items() if p.kind is p.VAR_POSITIONAL]
    if stars and not any(p.kind < p.VAR_POSITIONAL for p in own.values()):
        del own[stars[0]]
    else:
        named = (p for p in passed.values() if p.kind is not p.VAR_POSITIONAL)
        passed = {p.name: p.replace(kind=max(p.kind, p.KEYWORD_ONLY)) for p in named}
    found = own | {name: p for name, p in passed.items() if name not in own}
    return dict(sorted(found.items(), key=lambda item: item[1].kind))


def _takes_all(cls: Any) -> bool:
    """Whether a constructor names the options of every optimizer: that of the base class does."""
    return CommonOptions.__annotations__.keys() <= inspect.signature(cls.__init__).parameters.keys()


def _refused(cls: Any, names: Container[str]) -> set[str]:
    """Return the options of every optimizer that a class has no use for."""
    refused = set()
    decays = getattr(cls, 'weight_decays', ())
    leafwise = is_leafwise(getattr(cls, 'transform', None))
    if not leafwise or not any(name in names for name in decays):
        refused.add('decay_mask')
    if not getattr(cls, 'first_moments', ()):
        refused.add('mu_dtype')
    if getattr(cls, 'no_accumulation', ''):
        refused.add('accumulate_steps')
    return refused


def argument_names(cls: type) -> set[str]:
    """Return the names of the arguments that the constructor of ``cls`` shows."""
    shown = constructor_signature(cls).parameters.values()
    return {p.name for p in shown if p.kind is not p.VAR_KEYWORD}


def argument_defaults(cls: type) -> dict[str, Any]:
    """Return the defaults of the arguments that the constructor of ``cls`` shows."""
    parameters = constructor_signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}
