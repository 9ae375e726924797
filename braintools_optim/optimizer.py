"""The optimizer: it holds parameters and state, and says what a step does around the chain."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Self

import jax
import optax
from brainstate.graph import Node
from brainstate.util import PrettyType

from .chains import RunsChains
from .check import check_count, check_flag, check_number, is_zero
from .constraint import check_constraints, check_constraints_met
from .copying import Copied
from .decay_mask import check_decay_mask
from .engine.accumulate import GradientSum, check_accumulation
from .engine.chunks import are_many
from .engine.closure import step_with_functions
from .engine.given_chain import check_chain
from .engine.leaf import Leaf, all_leaves, leaves_of
from .engine.observe import traced
from .engine.own_state import ChainState, CoreState, CountState
from .engine.packs import are_light
from .engine.plan import GroupPlan
from .engine.running import Running
from .engine.step import Stepper
from .engine.writing import undone_on_error
from .fixed_options import FixedOptions
from .groups import Groups, ParamGroup
from .hyper import TO_COME, Hyper, HyperTable, number_at
from .live import LiveNumbers
from .other_libraries import (
    note_class,
    refuse_more,
    refuse_parameters,
    refuse_rate,
    refuse_torch_group,
)
from .precision import Precision
from .ranges import inherit_ranges
from .rates import DrivenRates
from .report import describe
from .saving import Savable
from .schedulers import ConstantLR, LRScheduler, Scheduler
from .sharding import own_buffers
from .signature import argument_defaults, constructor_documentation, constructor_signature
from .slot import check_vectors, may_lie_together, with_dtype, with_known
from .state import OptimState, RegisteredStates, UniqueStateManager, check_trainable

__all__ = ['OptaxOptimizer', 'Optimizer']


class Optimizer(Node):
    """Base class of everything that updates registered parameters from their gradients."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        note_class(cls)
        inherit_ranges(cls)
        cls.__signature__ = constructor_signature(cls)
        cls.__doc__ = constructor_documentation(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> Optimizer:
        """Refuse parameters as the first argument, as torch takes them."""
        if args and not isinstance(args[0], Optimizer):
            refuse_parameters(cls, args[0])
        return super().__new__(cls)

    def register_trainable_weights(self, param_states: Any) -> Any:
        """Take in the parameters, a pytree of States; return the optimizer."""
        raise NotImplementedError(f'{type(self).__name__} must define register_trainable_weights.')

    def update(self, grads: Any) -> Any:
        """Update the parameters from their gradients."""
        raise NotImplementedError(f'{type(self).__name__} must define update.')


@functools.cache
def _taken() -> frozenset[str]:
    """Return the attributes of every optimizer, where a number would stand in their way."""
    names = {*dir(OptaxOptimizer), *dir(Hyper), 'param_states', 'step_count'}
    return frozenset(names - {'lr'})


class OptaxOptimizer(
    RunsChains, LiveNumbers, FixedOptions, DrivenRates, Savable, Copied, Optimizer
):
    """An optimizer whose algorithm is an optax chain.

    Every number given at construction (learning rate, decays, ...) is live: assign it on the
    optimizer for all groups, on a parameter group for that group, or attach a scheduler, and the
    next step applies it without retracing. Flags are fixed.

    Parameters
    ----------
    tx : optax.GradientTransformation, optional
        A complete chain to run as it is; its own learning rate and decay stay baked in. Without
        one, subclasses say what to run in :meth:`transform`; this class itself runs Adam.
    lr : float or LRScheduler
        The learning rate, or what drives it.
    weight_decay : float
        L2 decay, added to the gradient.
    grad_clip_norm : float, optional
        Bound of the global norm of all gradients of all groups.
    grad_clip_value : float, optional
        Bound of every entry of the gradients.
    maximize : bool
        Climb instead of descending.
    state_dtype : dtype, optional
        The dtype in which the chain computes and keeps its state, such as float32 for parameters
        in bfloat16; by default that of each parameter.
    master_dtype : dtype, optional
        The dtype of the copies in which narrower parameters are kept and updated, such as float32
        for parameters in bfloat16, where small updates would vanish. The chain computes in it, too.
    mu_dtype : dtype, optional
        The dtype of first moments or momentum, what the class names in ``first_moments``; a class
        without any refuses it.
    skip_nonfinite : bool
        Whether a step in which any entry of any gradient is inf or nan leaves all parameters and
        all that the chains remember as they are. ``step_count`` counts it.
    accumulate_steps : int
        How many calls of ``step`` make one update, by the mean of their gradients; all but the last
        only add them up. ``step_count`` counts calls; schedulers advance only when you step them.
    decay_mask : pytree of bool or callable, optional
        Which parameters decay; classes that do not decay each by itself refuse it. It is a tree
        under the keys of ``param_states.to_pytree()``, which may end where everything below is
        alike, or a function from the tree of the parameters' values to such a tree.
    constrain : callable or pytree of callables, optional
        A function that is given the value of each array after an update and returns the value to
        keep, such as ``lambda x: jnp.clip(x, 0, 1)``; or a tree of such functions under the keys of
        ``param_states.to_pytree()``. A function holds for all that is below its key; what the tree
        lacks, or has None for, is free.
    **hyper
        The numbers, which are live, and fixed options of a subclass: ``h.name`` in
        :meth:`transform`.

    Attributes
    ----------
    param_states, step_count
        The registered parameters, a `UniqueStateManager`; a State with the number of steps so far.

    Examples
    --------
    >>> import brainstate, jax.numpy as jnp, optax
    >>> import braintools_optim as bo
    >>> w = brainstate.ParamState(jnp.array([3.0, -2.0]))
    >>> opt = bo.SGD(lr=0.1).register_trainable_weights({'w': w})
    >>> for _ in range(3):
    ...     opt.step(brainstate.transform.grad(lambda: (w.value**2).sum(), {'w': w})())
    >>> w.value.round(3)
    Array([ 1.536, -1.024], dtype=float32)

    An algorithm of your own is a signature and a chain:

    >>> class SignDescent(bo.OptaxOptimizer):
    ...     def __init__(self, lr=1e-3):
    ...         super().__init__(lr=lr)
    ...
    ...     def transform(self, h):
    ...         return optax.chain(optax.scale_by_sign(), optax.scale_by_learning_rate(h.lr))
    """

    param_states: RegisteredStates
    step_count: OptimState

    def __init__(
        self,
        tx: optax.GradientTransformation | None = None,
        lr: float | LRScheduler = 1e-3,
        weight_decay: float = 0.0,
        grad_clip_norm: float | None = None,
        grad_clip_value: float | None = None,
        *,
        maximize: bool = False,
        state_dtype: Any = None,
        master_dtype: Any = None,
        mu_dtype: Any = None,
        skip_nonfinite: bool = False,
        accumulate_steps: int = 1,
        decay_mask: Any = None,
        constrain: Any = None,
        **hyper: Any,
    ):
        super().__init__()
        name = type(self).__name__
        if tx is not None:
            check_chain(name, 'tx', tx, 'parameters are given to register_trainable_weights')
        scheduler = lr if isinstance(lr, LRScheduler) else None
        if scheduler is None:
            refuse_rate(name, lr)
        first_lr = check_number(name, 'lr', self._first_rate(lr))
        self._declare(
            {'lr': first_lr, 'weight_decay': weight_decay, **hyper, 'maximize': maximize},
            {'grad_clip_norm': grad_clip_norm, 'grad_clip_value': grad_clip_value},
            _taken(),
        )
        self._table = HyperTable()
        self._groups: list[ParamGroup] = []
        self._running = Running()
        self._tx = tx
        self._precision = Precision.checked(name, state_dtype, master_dtype, mu_dtype)
        if mu_dtype is not None and not self.first_moments:
            raise TypeError(
                f'{name} keeps no first moment or momentum, to which mu_dtype would apply.'
            )
        self._skip_nonfinite = check_flag(name, 'skip_nonfinite', skip_nonfinite, False)
        self._accumulate_steps = check_count(name, 'accumulate_steps', accumulate_steps, 1)
        if self._accumulate_steps > 1:
            check_accumulation(self)
        check_constraints(name, constrain)
        self._decay_mask, self._constrain = decay_mask, constrain
        self._schedulers: list[Scheduler] = []
        self._leaves: list[Leaf] = []
        self._stepper: Stepper | None = None
        self._pending = None
        self.param_states = RegisteredStates(name)
        self._core = CoreState()
        self._number_state = self._table.state  # seen by brainstate's graph functions
        self.step_count = CountState(self._core, self._accumulate_steps)
        self._lr_is_free = scheduler is None  # the first scheduler that is added takes its place
        own = ConstantLR(self._numbers['lr'], 1.0, 0) if scheduler is None else scheduler
        self._lr_scheduler = own
        self._new_group(self._numbers, self._flags, self._bounds)
        self._table.append(TO_COME, self._numbers)
        if decay_mask is not None:
            check_decay_mask(self)
        self._lr_scheduler.attach_optimizer(self)

    def _constructor_defaults(self) -> dict[str, Any]:
        """Return the arguments that the constructors of this class and its bases name."""
        named: dict[str, Any] = {'lr': 0.0, 'maximize': False}
        cls, base = type(self), OptaxOptimizer
        if cls.transform is base.transform or cls.__init__ is base.__init__:
            named['weight_decay'] = 0.0
        bases = cls.__mro__
        for one in reversed(bases[: bases.index(base)]):
            if '__init__' in one.__dict__:
                named |= argument_defaults(one)
        return named

    # ---- parameters and groups -----------------------------------------------------------

    def register_trainable_weights(self, param_states: Any) -> Self:
        """Take in parameters, a pytree of States, as group 0; return the optimizer.

        Called again it adds what is new to group 0. All moments are kept.
        """
        manager = self.param_states.copy().merge_with(param_states)
        self._core.refuse_to_grow(f'{type(self).__name__}.register_trainable_weights')
        if not len(manager):
            raise ValueError(
                f'{type(self).__name__} was given no parameters; has the model any ParamState? '
                f'Register model.states(brainstate.ParamState).'
            )
        new = range(len(self.param_states), len(manager))
        with self._undone_on_error():
            self._enroll(manager, self._groups[0], list(new))
            self._apply_pending()
        return self

    def add_param_group(self, params: Any, **hyper: Any) -> None:
        """Add a group of parameters with values of its own; the rest are the optimizer's defaults.

        Defaults are the values given to the constructor, or assigned to all groups since.

        Parameters
        ----------
        params : pytree of State
            States that are in no group yet.
        **hyper
            Any hyper-parameter or flag of this optimizer.
        """
        name = type(self).__name__
        if not len(self.param_states):
            raise ValueError(
                f'{name} has no parameters yet; call register_trainable_weights first.'
            )
        self._core.refuse_to_grow(f'{name}.add_param_group')
        for key in hyper:
            if key not in self._numbers and key not in self._flags:
                raise TypeError(self._no_option(key))
        refuse_torch_group(name, params, (*self._numbers, *self._flags))
        manager = self.param_states.copy().merge_with(params)
        fresh = UniqueStateManager(params)
        for state, given in zip(fresh, fresh.names, strict=True):
            if state in self.param_states:
                position = self.param_states.position(state)
                holder = next(g.index for g in self._groups if position in g.members)
                raise ValueError(
                    f'parameter {given!r} is already in group {holder}'
                    f' as {self.param_states.names[position]!r}; a parameter is in one group.'
                )
        if not len(fresh):
            raise ValueError(f'{name} was given a group without parameters.')
        numbers = {
            k: self._checked(k, hyper.get(k, default), default)
            for k, default in self._defaults().items()
        }
        flags = {
            k: self._checked_flag(k, hyper.get(k, default), default)
            for k, default in self._flags.items()
        }
        with self._undone_on_error():
            group = self._new_group(numbers, flags, {})
            self._enroll(manager, group, list(range(len(self.param_states), len(manager))))
            self._join_schedulers(group, numbers['lr'] if 'lr' in hyper else None)
            self._apply_pending()

    def _undone_on_error(self, *more: Any) -> AbstractContextManager[None]:
        """Take everything back if what is done to the optimizer does not end well."""
        states = [self._core, self._table.state, *more]
        parts = [x for scheduler in self._all_schedulers() for x in scheduler._parts()]
        return undone_on_error(self, *states, self._table, self.param_states, *self._groups, *parts)

    def _new_group(self, numbers: Mapping, flags: dict, bounds: Mapping) -> ParamGroup:
        group = ParamGroup(self, len(self._groups), flags)
        group.unused = frozenset(k for k in self.structural if is_zero(number_at(numbers, k)))
        h = group.hyper(numbers)
        self.validate(h)
        given = {k: v for k, v in bounds.items() if v is not None}
        self._table.append(group.index, {**numbers, **given})
        self._groups = [*self._groups, group]
        group.fixed_chain = self._fixed_chain(h)
        return group

    def _enroll(self, manager: UniqueStateManager, group: ParamGroup, new: list[int]) -> None:
        """Give the States at positions ``new`` to a group, with state for all its members."""
        check_trainable(manager, new)
        real_view = self.complex_as_real and self._tx is None
        leaves = leaves_of(  # checked, the known ones too
            manager,
            real_view,
            self.gradient_layouts,
            self._precision,
            self._decay_mask,
            self._constrain,
        )
        if not new:
            self.param_states.adopt(manager)  # perhaps new names of known States
            return
        plan = GroupPlan.of(manager, leaves, group, new)
        old = all_leaves(state.value for state in manager)
        arrays: list[Any] = [None] * len(leaves)
        for i in plan.leaves:
            arrays[i] = leaves[i].encode(old[i])
        paths, values = plan.paths(leaves), [arrays[i] for i in plan.leaves]
        state = self._first_state(plan, leaves, arrays)
        if group.members:
            known = GroupPlan.of(self.param_states, self._leaves, group)
            before = known.paths(self._leaves)
            state = with_known(state, paths, self._core.chain(group.index), before)
        # A step may take many leaves in several calls, each with their own state.
        alone = are_many(leaves) or not are_light(leaf.shape for leaf in leaves)
        own = None if alone else may_lie_together(state, paths)
        self._core.put_group(group.index, state, own, values)
        group.members = [*group.members, *new]
        self.param_states.adopt(manager)
        self._leaves = leaves
        self._table.state.given_out()  # as wide as floats are now
        self._stepper = None

    @jax.numpy_dtype_promotion('standard')
    def _first_state(self, plan: GroupPlan, leaves: list[Leaf], arrays: list) -> Any:
        """Return the state with which a group's chain begins, in buffers of its own.

        ``arrays`` are what chains see of its parameters, in the places of all.
        """
        owner, paths = type(self).__name__, plan.paths(leaves)
        state = self._chain(plan.group, plan.group.hyper()).init(plan.tree(arrays))
        check_vectors(state, paths, owner)
        if (narrow := self._precision.mu_dtype) is not None:
            state = with_dtype(state, paths, self.first_moments, narrow, owner)
        if self._accumulate_steps > 1:
            state = state, GradientSum.zeros(leaves, plan, arrays)
        return own_buffers(state, {leaves[i].path: arrays[i] for i in plan.leaves})

    @property
    def opt_state(self) -> OptimState | None:
        """The chain state of group 0, None until parameters are registered."""
        return ChainState(self._core, 0) if len(self.param_states) else None

    @property
    def param_groups_opt_states(self) -> list[OptimState]:
        """The chain states of the groups after the first."""
        return [ChainState(self._core, g.index) for g in self._groups[1:]]

    @property
    def param_groups(self) -> list[ParamGroup]:
        """The parameter groups; empty until parameters are registered."""
        return Groups(type(self).__name__, self._groups if len(self.param_states) else [])

    # ---- stepping ------------------------------------------------------------------------

    def step(self, grads: Any = None, **extra: Any) -> None:
        """Update the parameters from their gradients.

        Parameters
        ----------
        grads : pytree
            Gradients under the keys of their parameters. A parameter whose gradient is missing or
            None stays as it is, and so do its moments. The gradient of a complex parameter points
            uphill, as torch's does: conjugate what JAX's grad returns.
        **extra
            What the chain takes besides (``value``, ``value_fn`` ...), by optax's protocol.
        """
        stepper, extra = self._ready(), self._checked_extra(extra)
        if extra and self._accumulate_steps > 1:
            raise TypeError(
                f'{type(self).__name__} adds up the gradients of {self._accumulate_steps} steps, '
                f'and takes nothing besides, got {", ".join(extra)}.'
            )
        if extra and not traced() and any(map(callable, jax.tree.leaves(extra))):
            step_with_functions(stepper, grads, extra)
        else:
            stepper.run(grads, extra)

    def _ready(self) -> Stepper:
        """Return what takes steps over the present parameters and groups."""
        return self._stepper or self._new_stepper()

    def _new_stepper(self) -> Stepper:
        if not len(self.param_states):
            raise ValueError(
                f'{type(self).__name__} has no parameters yet; call '
                f'register_trainable_weights before step.'
            )
        if self._pending is not None:
            self._pending.refuse_use(self)
            self._pending = None  # what comes from now on is new
        check_constraints_met(self)
        stepper = Stepper(self)
        self._stepper = stepper
        return stepper

    def update(self, grads: Any = None, *more: Any, **extra: Any) -> None:
        """Do the same as :meth:`step`."""
        refuse_more(type(self).__name__, more)
        self.step(grads, **extra)

    def __repr__(self) -> str:
        return describe(self)

    def __pretty_repr__(self) -> Iterator[PrettyType]:
        """Show the same within a module, of whose parts brainstate 0.6 does not ask the repr."""
        yield PrettyType(type(self), **{'ref': repr(self)})  # which 0.5 does not know, nor ask for
