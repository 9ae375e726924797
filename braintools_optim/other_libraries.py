"""What people bring along from other libraries, and how it is done here."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence, ValuesView
from functools import cache
from typing import Any

from brainstate import State
from brainstate.graph import Node

from .ranges import RANGES

__all__ = [
    'OF_GROUPS',
    'OF_SCHEDULERS',
    'argument_here',
    'did_you_mean',
    'home_of',
    'is_defined_here',
    'is_ours',
    'name_here',
    'note_class',
    'refuse_assignment',
    'refuse_class_attribute',
    'refuse_more',
    'refuse_parameters',
    'refuse_rate',
    'refuse_read_only',
    'refuse_scheduler',
    'refuse_stray',
    'refuse_torch_group',
    'way_here',
]

WAYS: dict[str, str] = {
    'zero_grad': 'gradients are arguments: leave it out, and call step(grads); those of several '
    'calls add up with accumulate_steps',
    'states': 'call brainstate.graph.states(optimizer); all that is saved is in state_dict()',
    'backward': 'compute gradients by brainstate.transform.grad(loss, params)()',
    'minimize': 'compute gradients by brainstate.transform.grad(loss, params)(), and call '
    'step(grads)',
    'apply_gradients': 'call step(grads)',
    'apply_updates': 'leave it out: step(grads) updates the parameters in place',
    'init': 'call register_trainable_weights(params)',
    'state': 'the state is in opt_state, and all of it in state_dict()',
    'parameters': 'the parameters are in param_states.to_pytree()',
    'params': 'the parameters are in param_states.to_pytree()',
    'learning_rate': 'the number is current_lr',
    'get_lr': 'the number is current_lr, that of each group in get_last_lr()',
    'scheduler': 'the scheduler is lr, those that were added are in schedulers',
    'step_epoch': 'schedulers are stepped: lr.step()',
    'defaults': 'each number is an attribute, such as current_lr, and an entry of param_groups[i]',
    'register_step_pre_hook': 'do it before step(grads), or in a subclass that overrides step',
    'register_step_post_hook': 'do it after step(grads), or in a subclass that overrides step',
    'clip_grad_norm_': 'construct it with grad_clip_norm=1.0',
    'iterations': 'the number of steps is step_count',
    'set_lr': 'assign current_lr',
    'register': 'call register_trainable_weights(params)',
    **dict.fromkeys(
        ('train', 'eval'),
        'leave it out: it has one mode; averages for evaluation are AveragedModel(model)',
    ),
}
"""Attributes of other libraries' optimizers, and what to do instead."""


ALIASES: dict[str, tuple[str, ...]] = {
    'learning_rate': ('lr', 'base_lr'),
    'lr': ('base_lr',),
    **dict.fromkeys(('b1', 'b2', 'beta1', 'beta2'), ('betas',)),
    **dict.fromkeys(('l2', 'wd'), ('weight_decay',)),
    **dict.fromkeys(
        ('max_norm', 'max_grad_norm', 'grad_clip', 'clip_grad_norm', 'clip_norm', 'clipnorm'),
        ('grad_clip_norm',),
    ),
    **dict.fromkeys(('clip_value', 'clipvalue'), ('grad_clip_value',)),
    **dict.fromkeys(
        ('gradient_accumulation', 'gradient_accumulation_steps', 'accumulate_grad_batches'),
        ('accumulate_steps',),
    ),
    'every_k_schedule': ('accumulate_steps',),
    **dict.fromkeys(('constraint', 'constraints', 'kernel_constraint'), ('constrain',)),
    'mask': ('decay_mask', 'weight_decay_mask'),
    'weight_decay_mask': ('decay_mask', 'mask'),
    'epsilon': ('eps',),
    'mom': ('momentum',),
    **dict.fromkeys(('slow_step_size', 'la_alpha'), ('alpha',)),
    **dict.fromkeys(('k', 'la_steps', 'slow_update_period'), ('sync_period',)),
    'mars_type': ('variant',),
    'alpha_warmup': ('T_alpha',),
    'beta3_warmup': ('T_b3',),
    'init_value': ('warmup_start_lr', 'base_lr'),
    'peak_value': ('max_lr', 'base_lr'),
    'end_value': ('eta_min',),
    'decay_steps': ('T_max', 'total_steps', 'total_iters'),
    'transition_steps': ('decay_steps', 'total_iters'),
}
"""Arguments of other libraries that have other names here: the first that there is."""


def did_you_mean(wrong: Any, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ' Did you mean ...?' if there is something like it, else nothing."""
    if not isinstance(wrong, str):  # such as the place of a group, where a name should be
        return ''
    public = [k for k in known if not k.startswith('_')]
    near = [name for name in ALIASES.get(wrong, ()) if name in public]
    near = near or [name for name in public if name.lower() == wrong.lower()]
    near = near or difflib.get_close_matches(wrong, public, 1, cutoff)
    return f' Did you mean {near[0]!r}?' if near else ''


def way_here(name: str, known: Iterable[str]) -> str:
    """Return what to do instead of reading an attribute that there is not, as a sentence."""
    if name in WAYS:
        way = WAYS[name]
        return f' {way[0].upper()}{way[1:]}.'
    if name.startswith('_'):  # Python and JAX look for many of these
        return ''
    return did_you_mean(name, known)


ONE_PROGRAM = 'Leave it out: it chooses among implementations of one rule, and here there is one.'
A_RATE = 'A scheduler is given as lr: write {owner}(lr=StepLR(1e-3, step_size=30)).'
ARGUMENTS: dict[str, str] = {
    'params': 'Parameters come after it is constructed: write '
    '{owner}(lr=...).register_trainable_weights(params).',
    'foreach': ONE_PROGRAM,
    'fused': ONE_PROGRAM,
    'capturable': ONE_PROGRAM,
    'differentiable': 'To differentiate through steps take jax.grad of a function that builds the '
    'States and the optimizer and steps it.',
    'eps_root': 'Chains of optax have it: OptaxOptimizer(tx=optax.adam(lr, eps_root=...)).',
    'scheduler': A_RATE,
    'lr_scheduler': A_RATE,
    'decay': 'Decays of averages are alpha, rho or betas here, that of parameters is weight_decay.',
    'use_ema': 'Averages of parameters are AveragedModel(model, decay=0.999).',
    'bounds': 'It is constrain here, a function such as lambda x: jnp.clip(x, 0, 1).',
    'projection': 'It is constrain here, a function such as lambda x: x / jnp.linalg.norm(x).',
}
"""Arguments of other libraries' optimizers, and what to do instead."""


OF_GROUPS = {'initial_lr': 'Those before any schedule are opt.lr.base_lrs, one for each group.'}
"""Entries of other libraries' parameter groups, and what to do instead."""


_OF_ANYBODY = frozenset(['k', 'mask'])
"""Arguments of other libraries whose names may mean anything where they are assigned."""


_NOTHING_ELSE = {
    name: ARGUMENTS[name]
    for name in ('foreach', 'fused', 'capturable', 'differentiable', 'use_ema')
}
"""Those that mean nothing else, so that somebody who assigns one means the argument."""


OF_SCHEDULERS = {'verbose': 'Leave it out, and print opt.current_lr where you want to see it.'}


def argument_here(owner: str, name: str, known: Mapping[str, str] = ARGUMENTS) -> str:
    """Return what to do instead of giving an argument that there is not, as a sentence."""
    return f' {known[name].format(owner=owner)}' if name in known else ''


PACKAGES: dict[tuple[str, ...], str] = {
    ('lr_scheduler', 'schedulers'): 'Schedulers are names of the package itself, such as StepLR.',
    (
        *('EMA', 'ExponentialMovingAverage', 'ema', 'swa_utils', 'get_ema_multi_avg_fn'),
        *('get_swa_multi_avg_fn', 'update_bn'),
    ): 'Averages of parameters, and of buffers with use_buffers=True, are AveragedModel(model).',
    (
        *('clip_grad_norm_', 'clip_grad_norm', 'clip_grad_value_'),
        *('clip_by_global_norm', 'clip'),
    ): 'Construct the optimizer with grad_clip_norm=1.0, or grad_clip_value=1.0.',
    ('keep_params_nonnegative', 'projections'): 'Construct the optimizer with constrain=f.',
    ('MultiSteps',): 'Construct the optimizer with accumulate_steps=4.',
    ('apply_if_finite',): 'Construct the optimizer with skip_nonfinite=True.',
    ('GradScaler',): 'The recipe for loss scaling in the docs has what it does in a few lines.',
    ('EarlyStopping',): 'The recipe for stopping early in the docs has it in a few lines.',
    ('LRFinder',): 'Assign current_lr between steps to try learning rates.',
    ('inject_hyperparams',): 'Every number of an optimizer is live: assign it.',
    ('multi_transform', 'partition'): 'Groups have numbers of their own: add_param_group.',
    ('apply_updates',): 'An optimizer updates its parameters in step(grads).',
    (
        'chain',
        'masked',
        'schedule_free',
    ): 'It is of optax: give OptaxOptimizer(tx=...) the chain.',
}
"""Names of other packages, and what to do instead."""


def name_here(name: str, known: Iterable[str]) -> str:
    """Return what to write instead of a name that the package lacks, as a sentence."""
    for names, way in PACKAGES.items():
        if name in names:
            return f' {way}'
    if name in ('ScipyOptimizer', 'NevergradOptimizer', 'SOFO', 'SOFOScan'):
        return f' It stays where it is: from braintools.optim import {name}.'
    return did_you_mean(name, known)


READ_ONLY: dict[str, str] = {
    'lr_scheduler': 'add_scheduler adds one',
    'schedulers': 'add_scheduler adds one',
    'base_lr': 'assign current_lr, or the base_lrs of the scheduler, which is lr',
    'tx': 'another chain is another optimizer',
    'opt_state': 'assign opt_state.value',
    'param_groups': 'add_param_group adds one; its numbers are assigned by name',
}
"""Attributes of optimizers that are no numbers, and what to do instead of assigning them."""


def refuse_read_only(owner: Any, name: str) -> None:
    """Raise if an attribute is one that can be read alone."""
    attribute = getattr(type(owner), name, None)
    if isinstance(attribute, property) and attribute.fset is None:
        way = f': {READ_ONLY[name]}' if name in READ_ONLY else ''
        raise AttributeError(f'{name} of {type(owner).__name__} cannot be assigned{way}.')


def refuse_assignment(optimizer: Any, name: str) -> None:
    """Raise where something is assigned that an optimizer of this library does not have.

    That is a number that other ones have, or a name that is nearly one of its own. A class that
    somebody else wrote may have attributes of any name.
    """
    numbers = sorted({*optimizer._numbers, *optimizer._bounds} - {'lr'})
    refuse_stray(optimizer, name, ['current_lr', *numbers], optimizer._declared_names)


_HOOKS = frozenset(['transform', 'default_tx', 'validate', 'affine', 'get_lr'])
_DATA = (bool, str, tuple, frozenset, dict, int, type(None))


def refuse_class_attribute(owner: Any, name: str) -> None:
    """Raise where an object is given what its class says: nobody would ask the object."""
    home = home_of(type(owner), name)
    if home is None or name in vars(owner) or name.startswith('_'):
        return
    said = vars(home)[name]
    if name in _HOOKS or (isinstance(said, _DATA) and is_defined_here(home)):
        raise AttributeError(
            f'{name} of {type(owner).__name__} is said by the class: write a subclass for another.'
        )


def refuse_stray(owner: Any, name: str, numbers: Iterable[str], more: Iterable[str] = ()) -> None:
    """Raise where something is assigned that an object of this library does not have.

    ``numbers`` are the names of those that it has, ``more`` what it has besides its attributes.
    """
    if hasattr(type(owner), name) or name.startswith('_') or hasattr(owner, name):
        return
    if not is_ours(owner) or name in _OF_ANYBODY:
        return
    if name in _numbers_of_ours():
        raise AttributeError(
            f'{type(owner).__name__} has no number {name!r} to assign; it has '
            f'{", ".join(numbers) or "none"}.'
        )
    known = {x for x in dir(owner) if not x.startswith('_')}.union(numbers, more)
    hint = did_you_mean(name, known, 0.85)
    hint = hint or argument_here(type(owner).__name__, name, _NOTHING_ELSE)
    if hint or name in _arguments_of_ours():
        raise AttributeError(f'{type(owner).__name__} has no {name!r} to assign.{hint}')


_OURS: list[Any] = []  # the classes of optimizers and schedulers of this library


def note_class(cls: Any) -> None:
    """Get to know a class of optimizers or schedulers."""
    if is_defined_here(cls):
        _OURS.append(cls)


@cache
def _numbers_of_ours() -> frozenset[str]:
    """Return the names of all numbers that optimizers and schedulers of this library have."""
    names = {*RANGES, 'learning_rate'}
    for cls in _OURS:
        names.update(getattr(cls, 'ranges', ()))
        names.update(getattr(getattr(cls, 'schedule', None), 'numbers', ()))
    return frozenset(names)


@cache
def _arguments_of_ours() -> frozenset[str]:
    """Return what their constructors are given by name; objects of people may have a name, too."""
    parameters = (inspect.signature(cls).parameters for cls in _OURS)
    return frozenset(name for names in parameters for name in names) - {'name'}


def is_defined_here(thing: Any) -> bool:
    """Whether a class or function is one of this library."""
    return thing.__module__.partition('.')[0] == __package__


def home_of(kind: type, name: str) -> type | None:
    """Return the class, among those that a class is derived from, in which a name stands."""
    return next((cls for cls in kind.__mro__ if name in vars(cls)), None)


def is_ours(owner: Any) -> bool:
    """Whether the class of an object is one of this library."""
    return is_defined_here(type(owner))


def refuse_parameters(cls: type, first: Any) -> None:
    """Raise for parameters as the first argument, as torch takes them.

    That of a constructor of the user's may be a list or array, if there are no parameters in it.
    """
    owner = cls.__name__
    if not is_defined_here(cls.__init__) and not _is_made_of_states(first):  # type: ignore[misc]  # of no instance
        return
    of_several = isinstance(first, Mapping | ValuesView | Iterator | list | set | frozenset)
    of_several = of_several or type(first) is tuple or getattr(first, 'shape', ()) != ()
    if of_several or isinstance(first, State | Node):
        what = 'params'
        if isinstance(first, Node):
            what = 'model.states(brainstate.ParamState)'
        raise TypeError(
            f'{owner} takes its parameters after construction, got {type(first).__name__}: write '
            f'{owner}(lr=...).register_trainable_weights({what}).'
        )


def _is_made_of_states(x: Any) -> bool:
    if isinstance(x, Mapping):
        return any(map(_is_made_of_states, x.values()))
    if isinstance(x, list | tuple | set | frozenset | ValuesView):
        return any(map(_is_made_of_states, x))
    return isinstance(x, State | Node)


def refuse_more(owner: str, more: Sequence[Any]) -> None:
    """Raise for what other libraries' updates take besides gradients."""
    if more:
        raise TypeError(
            f'{owner}.update takes gradients alone, and {len(more)} more came: the optimizer holds '
            f'parameters and state; write update(grads).'
        )


def refuse_rate(owner: str, lr: Any) -> None:
    """Raise for a function, class or model, or several numbers, as the learning rate."""
    if isinstance(lr, list | tuple) or getattr(lr, 'ndim', None):
        raise TypeError(
            f'{owner} needs one number or a scheduler for lr, got {lr!r}: a group of its own rate '
            f'is added by add_param_group(params, lr=...), and a scheduler takes a list.'
        )
    if not callable(lr):
        return
    kind, name = type(lr).__name__, getattr(lr, '__name__', None)
    got = f'a {kind}' if name is None else f'the {kind} {name}'
    way = (
        'a schedule, a function of the step, is given as lr=LambdaLR(1.0, schedule), which '
        'multiplies 1.0 by it at each opt.lr.step()'
    )
    if isinstance(lr, type):
        got, way = f'the class {name}', f'call it, {name}(...)'
    elif type(lr).__module__.startswith('braintools.'):
        got, way = f'a {kind} of braintools', f'take braintools_optim.{kind}'
    elif inspect.isfunction(type(lr).__call__):  # written in Python, as models of flax are
        way += '; the States of a model are given to register_trainable_weights'
    raise TypeError(
        f'{owner} needs a number or a scheduler for lr, such as CosineAnnealingLR(1e-3, T_max=90), '
        f'got {got}; {way}.'
    )


def refuse_scheduler(owner: str, lr: Any) -> None:
    """Raise for a scheduler as the learning rate of one group."""
    if hasattr(lr, 'attach_optimizer'):
        raise TypeError(
            f'{owner} needs a number for the lr of a group, got {lr!r}: a scheduler drives all '
            f'groups, each from its own number; add_scheduler adds one.'
        )


def refuse_torch_group(owner: str, params: Any, options: Iterable[str]) -> None:
    """Raise for a dict of parameters and options, as torch takes a group."""
    if not isinstance(params, Mapping) or 'params' not in params:
        return
    for name in options:
        if name in params and not isinstance(params[name], State):
            raise TypeError(
                f'{owner}.add_param_group takes States, and options by keyword; got a dict with '
                f'{name!r} of type {type(params[name]).__name__}, as torch has it: write '
                f'add_param_group(params, {name}=...).'
            )
