"""What is given at construction for a whole optimizer, and stays."""

from __future__ import annotations

from operator import attrgetter
from typing import Any, NoReturn

from .precision import Precision

__all__ = ['FixedOptions']


def _fixed(place: str, doc: str) -> Any:
    """Return an attribute for what is held in another one, such as ``'_decay_mask'``."""
    name = place.rpartition('.')[2].removeprefix('_')

    def refuse(self: Any, value: Any) -> NoReturn:
        raise AttributeError(
            f'{name} of {type(self).__name__} is fixed at construction; build a new optimizer.'
        )

    return property(attrgetter(place), refuse, doc=doc)


class FixedOptions:
    """Mixin of `OptaxOptimizer`: the common options that are no numbers."""

    _precision: Precision
    _skip_nonfinite: bool
    _accumulate_steps: int
    _decay_mask: Any
    _constrain: Any

    state_dtype = _fixed(
        '_precision.state_dtype',
        'What the chain computes in, None for the dtype of each parameter.',
    )
    master_dtype = _fixed(
        '_precision.master_dtype',
        'What narrower parameters are updated in, None for their own dtype.',
    )
    mu_dtype = _fixed(
        '_precision.mu_dtype',
        'What first moments are kept in, None for what the chain computes in.',
    )
    skip_nonfinite = _fixed(
        '_skip_nonfinite', 'Whether a step with a gradient that is not finite is left out.'
    )
    accumulate_steps = _fixed(
        '_accumulate_steps', 'How many calls of ``step`` add up to one update.'
    )
    decay_mask = _fixed('_decay_mask', 'Which parameters the weight decay is for, None for all.')
    constrain = _fixed(
        '_constrain', 'What is done to parameters after an update, None for nothing.'
    )
