"""Optimizers that learn the curvature of the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax
from brainstate.graph import Node

from ..check import check_count
from ..engine.closure import step_by_closure
from ..engine.view import GroupView
from ..hyper import Hyper
from ..optimizer import OptaxOptimizer
from ..other_libraries import refuse_more
from ..ranges import NON_NEGATIVE
from ..schedulers import LRScheduler
from ..signature import CommonOptions
from ..transforms import descend, scale_by_strong_wolfe, step_by_lbfgs
from ..transforms.wide import cast_like
from .arguments import one_of_two

__all__ = ['LBFGS']

_STEPS = 100  # of optax's line searches, as in braintools


class LBFGS(OptaxOptimizer):
    r"""L-BFGS, as ``torch.optim.LBFGS``.

    .. math:: \theta \leftarrow \theta - \eta H_t g_t

    with an inverse Hessian :math:`H_t` estimated from the last steps and the changes of the
    gradient over them; the first step takes :math:`\eta \min(1, 1 / \|g\|_1)` for :math:`\eta`.

    Parameters
    ----------
    lr : float or LRScheduler
        Learning rate :math:`\eta`; a line search begins with it.
    memory_size, history_size : int
        How many steps are remembered (torch's default is 100).
    scale_init_precond : bool
        Scale :math:`H` by the last curvature, and shorten the first step.
    linesearch, line_search_fn : {None, 'strong_wolfe', 'zoom', 'backtracking'} or transformation
        torch's search, one of optax's, or any that takes ``value``, ``grad``, ``value_fn``.
    max_iter, max_eval : int
        Iterations and evaluations in a step on a closure; ``max_iter * 5 // 4`` by default.
    tolerance_grad, tolerance_change : float
        Where it stops: the largest entry of the gradient, and of a step or change of the loss.

    For smooth losses without noise and few parameters. Liu & Nocedal, 1989. Deviations from torch:
    States that a closure writes, or draws random numbers from, change once in a step; an absent
    gradient leaves its parameter alone and the curvature begins anew. Each group has a history of
    its own; a line search or a closure needs a single group.
    """

    static = ('memory_size', 'max_iter', 'max_eval')
    no_accumulation = 'its history takes the gradients of all parameters, and at the same point'
    ranges = {'tolerance_grad': NON_NEGATIVE, 'tolerance_change': NON_NEGATIVE}
    first_moments = ()
    never_negative = ('iterations', 'pairs', 'slot', 'leaf_seen', 'num_linesearch_steps')

    def __init__(
        self,
        lr: float | LRScheduler = 1.0,
        memory_size: int = 10,
        scale_init_precond: bool = True,
        linesearch: str | optax.GradientTransformation | None = None,
        *,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int | None = None,
        line_search_fn: str | None = None,
        **common: Unpack[CommonOptions],
    ):
        if max_eval is None and isinstance(max_iter, int | np.integer):
            max_eval = max_iter * 5 // 4
        super().__init__(
            lr=lr,
            memory_size=one_of_two(LBFGS, 'memory_size', memory_size, 'history_size', history_size),
            scale_init_precond=scale_init_precond,
            linesearch=one_of_two(
                LBFGS, 'linesearch', linesearch, 'line_search_fn', line_search_fn
            ),
            max_iter=max_iter,
            max_eval=max_eval,
            tolerance_grad=tolerance_grad,
            tolerance_change=tolerance_change,
            **common,
        )

    def validate(self, h: Hyper) -> None:
        """Raise where sizes are no positive integers, or the line search is unknown."""
        owner = type(self).__name__
        for name in ('memory_size', 'max_iter', 'max_eval'):
            check_count(owner, name, getattr(h, name), 1)
        search = h.linesearch
        if search not in tuple(_SEARCHES) and not isinstance(search, optax.GradientTransformation):
            names = ', '.join(map(repr, _SEARCHES))
            raise ValueError(
                f'{owner} needs {names} or an optax.GradientTransformation for linesearch, '
                f'got {search!r}.'
            )

    def transform(self, h: Hyper) -> optax.GradientTransformation:
        """The step with its curvature, and the line search along it."""
        search = _SEARCHES.get(h.linesearch, lambda _: h.linesearch)(h)
        return step_by_lbfgs(
            h.lr,
            memory_size=h.memory_size,
            scale_init_precond=h.scale_init_precond,
            linesearch=search,
            tolerance_grad=h.tolerance_grad,
            tolerance_change=h.tolerance_change,
        )

    def add_param_group(self, params: Any, **hyper: Any) -> None:
        """Add a group of parameters with values and a history of its own."""
        if self.linesearch is not None or hyper.get('linesearch') is not None:
            raise ValueError(
                f'{type(self).__name__} with a line search has one group, since the search needs '
                f'the whole loss; register all parameters at once, or build it without one.'
            )
        super().add_param_group(params, **hyper)

    def step(
        self,
        grads: Any = None,
        value: Any = None,
        value_fn: Callable[[Any], Any] | None = None,
        *,
        closure: Callable[[], Any] | None = None,
        **extra: Any,
    ) -> Any:
        """Make one iteration on gradients, or up to ``max_iter`` on a closure.

        Parameters
        ----------
        grads : pytree
            Gradients under the keys of their parameters; or a closure, as in torch.
        value, value_fn
            The loss and the function of the parameters' values, a tree as that of
            ``param_states.to_pytree_value()``, which computes it: what a line search needs.
        closure : callable
            A function without arguments that returns the loss. It reads the parameters' States;
            put what else changes from step to step into States, too, or into the arguments of a
            function under ``brainstate.transform.jit``: on new arrays it would be traced again.

        Returns
        -------
        The first loss that the closure returned, None without a closure.
        """
        owner = type(self).__name__
        if closure is None and callable(grads):
            grads, closure = None, grads
        if (grads is None) == (closure is None):
            came = 'neither' if grads is None else 'both'
            raise TypeError(f'{owner}.step needs gradients or a closure, got {came}.')
        if closure is None:
            super().step(grads, value=value, value_fn=value_fn, **extra)
            return None
        unused = {'value': value, 'value_fn': value_fn, **extra}
        if given := [name for name, x in unused.items() if x is not None]:
            raise TypeError(f'{owner}.step takes {", ".join(given)} with gradients, not a closure.')
        if not callable(closure):
            raise TypeError(
                f'{owner}.step needs a function without arguments as closure, got {closure!r}.'
            )
        if len(self.param_groups) > 1:
            raise ValueError(
                f'{owner}.step takes a closure with one parameter group, and there are '
                f'{len(self.param_groups)}; give it gradients, or register all parameters at once.'
            )
        return step_by_closure(self._ready(), closure, self._descend)

    def update(
        self,
        grads: Any = None,
        value: Any = None,
        value_fn: Callable[[Any], Any] | None = None,
        *more: Any,
        **extra: Any,
    ) -> Any:
        """Do the same as :meth:`step`."""
        if isinstance(grads, Node) or not (value_fn is None or callable(value_fn)):
            more = (value, value_fn, *more)  # as optax and nnx have it
        refuse_more(type(self).__name__, more)
        return self.step(grads, value, value_fn, **extra)

    def _searches(self) -> bool:
        return self.linesearch is not None

    def _checked_extra(self, extra: dict[str, Any]) -> dict[str, Any]:
        needed = {name: extra.get(name) for name in ('value', 'value_fn')}
        extra = {name: x for name, x in extra.items() if name not in needed}
        search = self.linesearch
        if search is None:
            return extra
        lacking = [name for name, x in needed.items() if x is None]
        takes = isinstance(search, str | optax.GradientTransformationExtraArgs)
        if lacking and takes:
            shown = repr(search) if isinstance(search, str) else 'the given transformation'
            raise TypeError(
                f'{type(self).__name__} with linesearch={shown} needs value, the loss, and '
                f'value_fn, which computes it from the values of the parameters: '
                f'step(grads, value=..., value_fn=...); it got no {" and no ".join(lacking)}. '
                f'Or give step(closure=...).'
            )
        if takes and not callable(needed['value_fn']):
            raise TypeError(
                f'{type(self).__name__} needs a function of the values of the parameters for '
                f'value_fn, got {needed["value_fn"]!r:.80}.'
            )
        return extra | needed if takes else extra

    def _chain_extra(self, extra: dict, view: GroupView) -> dict:
        """Take the loss and its function to the tree that the chain sees."""
        if 'value_fn' not in extra:
            return extra
        # The gradient is that which the chain is given, turned and bounded, not optax's ``grad``.
        rest = {name: x for name, x in extra.items() if name != 'grad'}
        return rest | view.of_loss(rest)

    def _descend(
        self, h: Hyper, chain: Any, value_fn: Any, params: Any, state: Any, value: Any, grads: Any
    ) -> tuple[Any, Any]:
        """Return the parameters and the state after the iterations of a step on a closure."""
        return descend(
            chain,
            value_fn,
            params,
            state,
            value,
            grads,
            max_iter=h.max_iter,
            max_eval=h.max_eval,
            tolerance_grad=h.tolerance_grad,
            tolerance_change=h.tolerance_change,
        )


def _in_one_dtype(
    search: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """Let a search of optax see parameters of several dtypes in one that holds them all."""

    def common(tree: Any) -> Any:
        dtype = jnp.result_type(*(x.dtype for x in jax.tree.leaves(tree)))
        return jax.tree.map(lambda x: x.astype(dtype), tree)

    def init(params: Any) -> Any:
        return search.init(common(params))

    def update(
        updates: Any, state: Any, params: Any, *, grad: Any, value_fn: Callable, **extra: Any
    ) -> tuple[Any, Any]:
        steps, state = search.update(
            common(updates),
            state,
            common(params),
            grad=common(grad),
            value_fn=lambda wide: value_fn(cast_like(wide, params)),
            **extra,
        )
        return cast_like(steps, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


_SEARCHES: dict[Any, Callable[[Hyper], Any]] = {
    None: lambda h: None,
    'strong_wolfe': lambda h: scale_by_strong_wolfe(tolerance_change=h.tolerance_change),
    'zoom': lambda h: optax.scale_by_zoom_linesearch(_STEPS, initial_guess_strategy='one'),
    'backtracking': lambda h: _in_one_dtype(
        optax.scale_by_backtracking_linesearch(_STEPS, store_grad=True)
    ),
}
