"""A whole training step as one compiled call: loss, gradients, update, schedule."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import brainstate
import jax
import jax.numpy as jnp
from brainstate import State
from brainstate.graph import Node
from brainstate.transform import ProgressBar, for_loop

from .check import check_count, check_flag
from .engine.leaf import without_unit
from .engine.loss import check_loss, noted, shown_kind
from .engine.objective import ClosureObjective
from .engine.observe import traced
from .engine.program import StatefulProgram
from .optimizer import OptaxOptimizer
from .paths import taken_out
from .schedulers import Scheduler

__all__ = ['TrainStep', 'train_step']

_LOOPS = 8  # lengths and bars of which programs are kept


def train_step(
    model_or_states: Any,
    optimizer: OptaxOptimizer | Sequence[OptaxOptimizer],
    loss_fn: Callable[..., Any],
    scheduler: Scheduler | Sequence[Scheduler] | None = None,
    donate: bool = True,
    *,
    has_aux: bool = False,
    value_fn: bool | Callable[..., Any] | None = None,
) -> TrainStep:
    """Return a function that takes one training step in one compiled call.

    It does what one writes with ``brainstate.transform.jit``, ``brainstate.transform.grad``,
    ``opt.step`` and ``scheduler.step``, with the same results, in about the time and memory of
    ``jax.jit`` with donated arguments.

    Parameters
    ----------
    model_or_states : Module or pytree of State
        What is trained: the parameters of the optimizers must be among its States.
    optimizer : OptaxOptimizer or sequence of them
        With registered parameters; several optimizers share none.
    loss_fn : callable
        Returns the loss, a real scalar, from the arguments of the step and from States. States
        that it writes are updated.
    scheduler : Scheduler or sequence of them, optional
        Stepped after each update, that is once in ``accumulate_steps`` steps; `ReduceLROnPlateau`
        is given the loss.
    donate : bool
        Let the new values of States, parameters too, take over the memory of the old ones. Arrays
        that are held elsewhere are copied first.
    has_aux : bool
        Whether ``loss_fn`` returns ``(loss, aux)``; so does the step then.
    value_fn : bool or callable, optional
        What line searches evaluate. By default an `LBFGS` with a line search is given ``loss_fn``
        at other parameters, with random numbers as in this step, and a chain of optax that takes
        more than gradients the loss, as ``value``, unless it accumulates. True gives all of it
        (``value``, ``grad``, ``value_fn``) to every optimizer, False nothing; a function of the
        parameters' values and of the step's arguments takes the place of ``loss_fn``.

    Examples
    --------
    >>> import brainstate, jax.numpy as jnp
    >>> import braintools_optim as bo
    >>> model = brainstate.nn.Linear(3, 1)
    >>> opt = bo.AdamW(0.1).register_trainable_weights(model.states(brainstate.ParamState))
    >>> step = bo.train_step(model, opt, lambda x, y: jnp.mean((model(x) - y) ** 2))
    >>> x, y = jnp.ones((4, 3)), jnp.zeros((4, 1))
    >>> step(x, y).shape
    ()
    >>> step.scan((jnp.stack([x] * 50), jnp.stack([y] * 50))).shape
    (50,)
    """
    return TrainStep(model_or_states, optimizer, loss_fn, scheduler, donate, has_aux, value_fn)


class TrainStep:
    """A training step, called with the arguments of its loss function.

    :func:`train_step` makes it and says what its arguments are.
    """

    def __init__(
        self,
        model_or_states: Any,
        optimizer: OptaxOptimizer | Sequence[OptaxOptimizer],
        loss_fn: Callable[..., Any],
        scheduler: Scheduler | Sequence[Scheduler] | None = None,
        donate: bool = True,
        has_aux: bool = False,
        value_fn: bool | Callable[..., Any] | None = None,
    ):
        if not callable(loss_fn):
            raise TypeError(f'train_step needs a function for loss_fn, got {loss_fn!r}.')
        donate = check_flag('train_step', 'donate', donate, False)
        has_aux = check_flag('train_step', 'has_aux', has_aux, False)
        if not (value_fn is None or isinstance(value_fn, bool) or callable(value_fn)):
            raise TypeError(
                f'train_step needs True, False or a function for value_fn, got {value_fn!r}.'
            )
        self.model_states = _states_of(model_or_states)
        self.optimizers = _as_list('optimizer', optimizer, OptaxOptimizer)
        self.schedulers = _as_list('scheduler', scheduler, Scheduler)
        self.loss_fn, self.has_aux, self.value_fn = loss_fn, has_aux, value_fn
        self._check_parameters()
        self._check_schedulers()
        self._donate = donate
        self._program = StatefulProgram(self._take, donate, self._prepared)
        self._loops: dict[Any, StatefulProgram] = {}

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse to be copied or pickled."""
        raise TypeError(
            'a training step cannot be copied or pickled apart from its model and optimizer: call '
            'train_step on the copies of these.'
        )

    # ---- what users call -----------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Take one step; return the loss before it, or ``(loss, aux)``.

        Inside a transformation the step becomes part of it.
        """
        if traced():
            return self._take(*args, **kwargs)
        return self._program(args, kwargs)

    def scan(
        self,
        batches: Any = (),
        *,
        length: int | None = None,
        progress: bool | int | ProgressBar = False,
    ) -> Any:
        """Take many steps in one program; return what they return, stacked.

        Parameters
        ----------
        batches : pytree of arrays
            What a step takes, with one more axis in front; a tuple holds a step's arguments.
        length : int, optional
            The number of steps, where a step takes no arguments.
        progress : bool, int or ProgressBar
            Show a bar; a number says after how many steps it moves. Keep a bar of your own: a new
            one is compiled anew.
        """
        args = batches if isinstance(batches, tuple) else (batches,)
        steps = _common_length(args, length)
        self._check_arguments(args)
        bar = self._bar(progress)
        if traced():
            return for_loop(self._take, *args, length=steps, pbar=bar)
        told = None if jax.tree.leaves(args) else steps  # batches tell it by their shapes
        key = told, type(progress), progress
        if key not in self._loops:

            def loop(*args: Any) -> Any:
                return for_loop(self._take, *args, length=told, pbar=bar)

            while len(self._loops) >= _LOOPS:
                del self._loops[next(iter(self._loops))]
            self._loops[key] = StatefulProgram(loop, self._donate, self._prepared)
        return self._loops[key](args, {})

    def compiled(self, *args: Any, **kwargs: Any) -> Any:
        """Compile the step for such arguments, without taking it; return JAX's program.

        It tells what the step costs: ``step.compiled(x, y).memory_analysis()``.
        """
        if traced():
            raise RuntimeError(
                'train_step.compiled was called inside a transformation; call it outside.'
            )
        return self._program.compiled(args, kwargs)

    def __repr__(self) -> str:
        names = ', '.join(type(x).__name__ for x in (*self.optimizers, *self.schedulers))
        return f'train_step({getattr(self.loss_fn, "__name__", self.loss_fn)}, {names})'

    # ---- one step ------------------------------------------------------------------------

    def _take(self, *args: Any, **kwargs: Any) -> Any:
        """Take one step by reading and writing States, as one would by hand."""
        self._check_parameters()
        extras = [self._extras(opt, args, kwargs) for opt in self.optimizers]
        params = [opt.param_states.to_pytree() for opt in self.optimizers]
        gradient = brainstate.transform.grad(
            self._checked_loss, params, has_aux=self.has_aux, return_value=True
        )
        gradient.stateful_target.make_jaxpr(*args, **kwargs)
        self._check_read(gradient.stateful_target.get_states(*args, **kwargs))
        grads, loss, *aux = gradient(*args, **kwargs)
        for opt, mine, extra in zip(self.optimizers, grads, extras, strict=True):
            mine = jax.tree.map(_conjugated, mine)
            with opt._running.offering(*(['value'] if self.value_fn is None else [])):
                opt.step(mine, **({} if extra is None else extra(loss, mine)))
        for scheduler in self.schedulers:
            _after_update(scheduler, [without_unit(loss)] if scheduler._wants_metric() else [])
        return (loss, *aux) if self.has_aux else loss

    def _checked_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the loss function does, if that is what was said."""
        out = noted('loss_fn', self.loss_fn)(*args, **kwargs)
        loss = out
        if self.has_aux:
            if not isinstance(out, tuple | list) or len(out) != 2:
                raise TypeError(
                    f'with has_aux=True loss_fn must return (loss, aux), got {shown_kind(out)}.'
                )
            loss = out[0]
        several = isinstance(out, tuple) and not self.has_aux
        hint = '; if it returns more than that, say has_aux=True' if several else ''
        check_loss('loss_fn', loss, hint)
        return out

    def _extras(self, opt: OptaxOptimizer, args: tuple, kwargs: dict) -> Callable | None:
        """Return what makes the extra arguments of a step from the loss and gradients, or None."""
        if self.value_fn is None and not opt._searches():
            return (lambda loss, grads: {'value': loss}) if _may_want_loss(opt) else None
        if self.value_fn is False:
            return None
        if callable(self.value_fn):
            given = self.value_fn

            def value_fn(values: Any) -> Any:
                return given(values, *args, **kwargs)

        else:
            value_fn = self._loss_elsewhere(opt, args, kwargs)

        return lambda loss, grads: {'value': loss, 'value_fn': value_fn, 'grad': grads}

    def _loss_elsewhere(self, opt: OptaxOptimizer, args: tuple, kwargs: dict) -> Callable:
        """Return the loss as a function of an optimizer's parameters, all else as it is now."""

        def closure() -> Any:
            out = self._checked_loss(*args, **kwargs)
            return out[0] if self.has_aux else out

        objective = ClosureObjective(closure, opt._ready())
        others = [state.value for state in objective.others]
        paths = opt.param_states.unique_paths
        return lambda values: objective(taken_out(paths, values), others)[0]

    # ---- checks --------------------------------------------------------------------------

    def _prepared(self) -> list[State]:
        """Be ready for a trace; return all States that a step is known to touch."""
        for opt in self.optimizers:
            opt._core.refuse_several()
            opt._ready().follow_parameters()
        own = [s for opt in self.optimizers for s in (opt._core, opt._table.state)]
        rates = [s for scheduler in self.schedulers for s in scheduler._states()]
        return [*self.model_states, *own, *rates, brainstate.random.DEFAULT]

    def _check_parameters(self) -> None:
        """Raise if the optimizers do not train the model, each its own part of it."""
        known = set(map(id, self.model_states))
        holders: dict[int, str] = {}
        for i, opt in enumerate(self.optimizers):
            manager, owner = opt.param_states, f'{type(opt).__name__} (optimizer {i})'
            if not len(manager):
                raise ValueError(
                    f'{owner} has no parameters yet; call register_trainable_weights before '
                    f'train_step.'
                )
            strange = [n for s, n in zip(manager, manager.names, strict=True) if id(s) not in known]
            if strange:
                raise ValueError(
                    f'{owner} trains {", ".join(strange)}, which was no State of the model when '
                    f'train_step was given it; give it the model whose parameters were registered, '
                    f'as it is now.'
                )
            for state, name in zip(manager, manager.names, strict=True):
                if id(state) in holders:
                    raise ValueError(
                        f'{name!r} of {owner} is already a parameter of {holders[id(state)]}; '
                        f'each optimizer trains its own.'
                    )
                holders[id(state)] = owner

    def _check_arguments(self, args: tuple) -> None:
        """Raise if batches are not what the loss function takes."""
        if not inspect.isfunction(self.loss_fn):  # it may show the signature of what it wraps
            return
        try:
            inspect.signature(self.loss_fn, follow_wrapped=False).bind(*args)
        except TypeError as error:
            raise TypeError(
                f'what scan was given does not fit loss_fn: {error}. Stack the batches, argument '
                f'by argument, with the steps as first axis: scan((xs, ys)).'
            ) from None

    def _check_schedulers(self) -> None:
        for scheduler in self.schedulers:
            name = type(scheduler).__name__
            if scheduler.optimizer is None:
                raise ValueError(
                    f'{name} drives no optimizer; attach it: opt.add_scheduler(scheduler).'
                )
            if not any(scheduler.optimizer is opt for opt in self.optimizers):
                raise ValueError(
                    f'{name} drives a {type(scheduler.optimizer).__name__} that train_step was not '
                    f'given; give both, or a scheduler of this optimizer.'
                )

    def _check_read(self, states: Sequence[State]) -> None:
        """Raise if the loss does not depend on a parameter."""
        read = set(map(id, states))
        for opt in self.optimizers:
            names = zip(opt.param_states, opt.param_states.names, strict=True)
            if unread := [name for state, name in names if id(state) not in read]:
                raise ValueError(
                    f'loss_fn does not read {", ".join(unread)}, which {type(opt).__name__} '
                    f'trains; it must compute the loss from the States that were registered.'
                )

    def _bar(self, progress: Any) -> ProgressBar | None:
        if isinstance(progress, ProgressBar) or progress is False:
            return progress or None
        if progress is True:
            return ProgressBar()
        if isinstance(progress, int) and progress > 0:
            return ProgressBar(freq=progress)
        raise TypeError(
            f'scan needs True, False, a number of steps or a ProgressBar for progress, '
            f'got {progress!r}.'
        )


def _states_of(model: Any) -> list[State]:
    """Return the distinct States of a model, or of a tree of models and States."""
    parts = jax.tree.leaves(model, is_leaf=lambda x: isinstance(x, Node | State))
    found: dict[int, State] = {}
    for part in parts:
        if not isinstance(part, Node | State):
            raise TypeError(f'train_step needs a model or its States, got {type(part).__name__}.')
        inner = [part] if isinstance(part, State) else brainstate.graph.states(part).values()
        found |= {id(state): state for state in inner}
    if not found:
        raise ValueError(f'train_step was given a model without States, {type(model).__name__}.')
    return list(found.values())


def _as_list(name: str, given: Any, kind: type) -> list[Any]:
    """Return one object, several or None as a list; raise for other types and duplicates."""
    each = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    for x in each:
        if not isinstance(x, kind):
            got = f'the class {x.__name__}' if isinstance(x, type) else type(x).__name__
            raise TypeError(
                f'train_step needs one {kind.__name__} or several for {name}, got {got}.'
            )
    if not each and kind is OptaxOptimizer:
        raise TypeError(f'train_step needs an optimizer, got {given!r}.')
    if len(set(map(id, each))) < len(each):
        raise ValueError(f'train_step was given the same {name} twice.')
    return each


def _may_want_loss(opt: OptaxOptimizer) -> bool:
    """Whether its chain may take the loss, as optax's reduce_on_plateau does."""
    if opt._is_leafwise():
        return False
    kinds = {p.kind for p in inspect.signature(opt.step).parameters.values()}
    return opt.accumulate_steps == 1 and inspect.Parameter.VAR_KEYWORD in kinds


def _after_update(scheduler: Scheduler, metric: list) -> None:
    """Step a scheduler if the step that its optimizer has just taken was an update."""
    driven: Any = scheduler.optimizer
    if driven.accumulate_steps == 1:
        scheduler.step(*metric)
    else:
        updated = driven.step_count.value % driven.accumulate_steps == 0
        brainstate.transform.cond(updated, lambda: scheduler.step(*metric), lambda: None)


def _common_length(args: tuple, length: int | None) -> int:
    """Return the number of steps for which there are batches, or raise."""
    shapes = [jnp.shape(x) for x in jax.tree.leaves(args)]
    lengths = {shape[0] if shape else -1 for shape in shapes}
    if length is not None:
        lengths.add(check_count('scan', 'length', length))
    if len(lengths) != 1 or min(lengths) < 0:
        raise ValueError(
            f'scan needs batches with the number of steps as first axis of every array, or '
            f'length=; got the shapes {shapes} and length={length}.'
        )
    return lengths.pop()


def _conjugated(g: Any) -> Any:
    """Return the gradient as optimizers take it: JAX gives the conjugate for complex numbers."""
    return jnp.conj(g) if jnp.iscomplexobj(g) else g
