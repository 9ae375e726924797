"""Hyper-parameters as attributes: declared once, read and assigned like plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any

from brainstate import State

from .check import any_traced, check_flag, check_number, is_live, is_zero
from .class_attribute import let_through, refuse_hiding
from .copying import found_params
from .engine.attributes import refuse_unseen
from .engine.own_state import CoreState
from .engine.reads import HOW_TO_READ
from .engine.running import Running
from .groups import ParamGroup
from .hyper import TO_COME, Hyper, HyperTable, names_in_use, with_zeros
from .other_libraries import (
    OF_GROUPS,
    argument_here,
    did_you_mean,
    refuse_assignment,
    refuse_class_attribute,
    refuse_read_only,
    refuse_scheduler,
    way_here,
)
from .ranges import FINITE, RANGES, Range, range_of
from .signature import CommonOptions, argument_names

__all__ = ['LiveNumbers']


def _has_setter(cls: type, name: str) -> bool:
    """Whether a class says itself what assigning an attribute does."""
    attribute = getattr(cls, name, None)
    return type(attribute) is property and attribute.fset is not None


class LiveNumbers:
    """Mixin of `OptaxOptimizer`: hyper-parameters that are live, for each of its groups."""

    structural: tuple[str, ...] = ()
    """Numbers whose zero at construction leaves a part of the state out (`Hyper.uses`).

    An entry of a tuple is named as ``'betas[0]'``.
    """
    static: tuple[str, ...] = ()
    """Numbers that are fixed at construction, as flags are: those which shape the program."""
    ranges: Mapping[str, Range] = {}
    """The ranges of numbers that mean something in this class alone, or less than elsewhere.

    All entries of a tuple have that of its name. Those of the base classes hold besides.
    """
    none_is_zero: tuple[str, ...] = ()
    """Numbers, or entries of tuples as ``'eps[0]'``, for which None is another word for zero."""

    _numbers: dict[str, Any]  # the live numbers that each group has, as they were constructed
    _flags: dict[str, Any]  # names and defaults of the fixed options that each group has
    _assigned: frozenset[str]  # names of numbers that were assigned for all groups since
    _bounds: dict[str, Any]  # numbers of the whole optimizer, as constructed; None: switched off
    _table: HyperTable
    _groups: list[ParamGroup]
    _core: CoreState
    _running: Running
    _constructor_defaults: Callable[[], dict[str, Any]]  # all that the constructors name

    def validate(self, h: Hyper) -> None:
        """Raise if values contradict each other; numbers in ``h`` may be tracers."""

    def _declare(self, hyper: dict[str, Any], bounds: dict[str, Any], taken: Set[str]) -> None:
        """Sort constructor arguments into live numbers and flags, checked; no name may be taken."""
        refuse_hiding(type(self))
        name = type(self).__name__
        declared = self._constructor_defaults()
        if 'weight_decay' not in declared and is_zero(hyper['weight_decay']):
            # OptaxOptimizer always passes one; a zero is dropped where a class has none.
            hyper = {k: v for k, v in hyper.items() if k != 'weight_decay'}
        for key in hyper:
            if key in taken or (key == 'params' and key in declared):  # that is of groups
                raise TypeError(
                    f'{name} cannot have a hyper-parameter named {key}: an optimizer has another '
                    f'meaning for it. Choose another name.'
                )
            if key not in declared and key not in argument_names(type(self)):
                known = sorted(argument_names(type(self)))
                raise TypeError(
                    f'{name} has no argument {key!r}; it has {", ".join(known)}.'
                    f'{argument_here(name, key) or did_you_mean(key, known, 0.7)}'
                )
        self._numbers, self._flags, self._assigned = {}, {}, frozenset()
        for key, value in hyper.items():
            like = declared.get(key, value)
            if isinstance(like, tuple | list):
                like = (0.0,) * len(like)
            # A number that was given as None or 'x' is a mistake to report, not a flag.
            always = key in {*self.ranges, *RANGES} or type(declared.get(key)) is float
            if key in self.static or isinstance(like, bool) or not (always or is_live(value)):
                self._flags[key] = self._checked_flag(key, value, like)
            else:
                self._numbers[key] = self._checked(key, value, like)
        self._bounds = {
            k: None if v is None else check_number(name, k, v) for k, v in bounds.items()
        }
        names = {*self._numbers, *self._flags, *self._bounds}
        for key in names:
            self.__dict__.pop(key, None)  # a subclass may have set it before
        let_through(self, names)
        self._check_said(declared.keys() | argument_names(type(self)))
        self._declared_names = names

    def _check_said(self, declared: Set[str]) -> None:
        """Raise if what the class says of its arguments names one that its constructor lacks."""
        owner = type(self).__name__
        for said in ('structural', 'static', 'none_is_zero', 'ranges'):
            names = getattr(self, said)
            if isinstance(names, str):
                raise TypeError(f'{said} of {owner} is a tuple of names, got {names!r}.')
            for name in names:
                if (argument := name.partition('[')[0]) not in declared:
                    known = sorted(declared)
                    raise TypeError(
                        f'{said} of {owner} names {name!r}, which its constructor does not; that '
                        f'has {", ".join(known)}.{did_you_mean(argument, known)}'
                    )
                if said == 'structural' and argument not in self._numbers:
                    raise TypeError(
                        f'{owner} needs a number for {argument}, which is structural, got '
                        f'{self._flags.get(argument)!r}.'
                    )

    def __getattr__(self, name: str) -> Any:
        known = self.__dict__
        if name in known.get('_numbers', ()):
            running = self._running.hyper()
            return getattr(running, name) if running else self._read(0, name)
        if name in known.get('_flags', ()):
            return known['_flags'][name]
        if name in known.get('_bounds', ()):
            return None if known['_bounds'][name] is None else self._read(0, name)
        if name == 'param_states' and '_find_params' in known:
            return found_params(self)  # type: ignore[arg-type]  # mixed into one
        if '_core' in known and '_table' not in known:
            raise AttributeError(  # which brainstate looks out for when it merges a module
                f'this {type(self).__name__} was put together from its States alone, by a graph '
                f'function of brainstate or the copy of a module that holds it: copy it together '
                f'with the model, as in new.net, new.opt = copy.deepcopy((old.net, old.opt)), or '
                f'build it anew and call load_state_dict.'
            )
        if '_declared_names' not in known and name in ('param_states', 'step_count'):
            raise AttributeError(
                f'{type(self).__name__} is not constructed yet: its __init__ must call '
                f'super().__init__(lr=..., ...) with all its numbers.'
            )
        raise AttributeError(
            f'{type(self).__name__} has no attribute {name!r}.'
            f'{way_here(name, (*dir(self), *known.get("_declared_names", ())))}'
        )

    def __setattr__(self, name: str, value: Any) -> None:
        known = self.__dict__
        if name in known.get('_numbers', ()) and name != 'lr':  # a property says what to do instead
            self._assign({(g.index, name): value for g in self._groups}, for_all=True)
        elif name in known.get('_flags', ()):
            raise AttributeError(
                f'{name} of {type(self).__name__} is fixed at construction; build a new optimizer.'
            )
        elif name in known.get('_bounds', ()):
            if known['_bounds'][name] is None:
                raise AttributeError(
                    f'{type(self).__name__} was built without {name}; construct it with a value '
                    f'(any may follow, inf turns it off).'
                )
            self._assign({(0, name): value})
        else:
            if not _has_setter(type(self), name):  # as current_lr has
                self._check_attribute(name, value)
            object.__setattr__(self, name, value)

    def _check_attribute(self, name: str, value: Any) -> None:
        """Raise for an attribute that must not be assigned, or is a slip of the pen."""
        known = self.__dict__
        if '_declared_names' in known and name not in known:
            refuse_class_attribute(self, name)
            refuse_assignment(self, name)
        if name == 'param_states' and name in known:
            raise AttributeError(
                f'param_states of {type(self).__name__} is what was registered: call '
                f'register_trainable_weights, or add_param_group, to add to it.'
            )
        is_own = name == 'step_count'  # a part of another State
        if isinstance(known.get(name), State) and (is_own or not isinstance(value, State)):
            raise AttributeError(
                f'{name} of {type(self).__name__} is a State; assign {name}.value = '
                f'{value.value if isinstance(value, State) else value!r}.'
            )
        refuse_read_only(self, name)
        if known.get('_stepper') is not None and self._running.hyper() is None:
            way = f'super().__init__(..., {name}={name}) makes it a number, which is live'
            refuse_unseen(self, name, value, ('transform',), way)

    @property
    def _bounded_by(self) -> list[str]:
        """The names of the bounds on gradients that were given at construction."""
        return [name for name, given in self._bounds.items() if given is not None]

    def _read(self, group: int, name: str) -> Any:
        """Return a number of a group: while a chain is traced, the traced one."""
        number = self._running.number(group, name)
        number = self._table.read(group, name) if number is None else number
        unused = self._groups[group].unused
        return with_zeros(name, number, unused) if unused else number

    def _defaults(self) -> dict[str, Any]:
        """Return the numbers that a new group has if it is given none."""
        # What was constructed is a plain number, also where the table is known to a trace alone.
        new = self._assigned
        return {
            k: self._table.read(TO_COME, k) if k in new else v for k, v in self._numbers.items()
        }

    def _checked(self, name: str, value: Any, like: Any, driven: bool = False) -> Any:
        """Return a number of a group as it is kept, or raise where it is not allowed.

        A learning rate that is driven may be negative, as torch's schedulers make it.
        """
        allowed = FINITE if driven and name == 'lr' else range_of(name, self.ranges)
        if type(value) is float:  # by far the most frequent
            return check_number(type(self).__name__, name, value, like, allowed)
        if name == 'lr':
            refuse_scheduler(type(self).__name__, value)
        absent = self.none_is_zero
        if name in absent and value is None:
            value = 0.0
        elif isinstance(value, tuple | list) and any(x.startswith(f'{name}[') for x in absent):
            value = tuple(
                0.0 if x is None and f'{name}[{i}]' in absent else x for i, x in enumerate(value)
            )
        return check_number(type(self).__name__, name, value, like, allowed)

    def _check_number(self, name: str, value: Any) -> None:
        """Raise where a live number, of groups or of the whole optimizer, may not be that."""
        if name in self._numbers:
            self._checked(name, value, self._numbers[name], driven=True)
        else:
            check_number(type(self).__name__, name, value)

    def _checked_flag(self, name: str, value: Any, like: Any) -> Any:
        """Return an option that is fixed at construction, or raise where it is not allowed."""
        ranged = name in self.static and name in self.ranges and is_live(like)
        if ranged and not callable(value):  # a schedule, of those that take one
            check_number(type(self).__name__, name, value, like, self.ranges[name])
        return check_flag(type(self).__name__, name, value, like)

    def _assign(
        self, changes: Mapping[tuple[int, str], Any], by_hand: bool = True, for_all: bool = False
    ) -> None:
        """Set live numbers, checked, all with one write; ``for_all`` for groups to come, too."""
        owner = type(self).__name__
        checked: dict[tuple[int, str], Any] = {}
        for (index, name), value in changes.items():
            if name not in self._numbers:
                if self._bounds.get(name) is not None and index == 0:
                    checked[index, name] = check_number(owner, name, value)
                    continue
                if name in self._flags or name == 'params':
                    raise AttributeError(f'{name!r} of a parameter group is fixed at construction.')
                raise KeyError(self._no_option(name))
            group = self._groups[index]
            if group.fixed_chain is not None and name != 'lr':
                raise self._without_effect(name)
            driven = not by_hand or self._nears_zero(index, name, value)
            try:
                checked[index, name] = self._checked(name, value, self._numbers[name], driven)
            except TypeError:
                self._core.refuse_several()  # whose numbers are arrays
                raise
            if by_hand and name == 'lr' and self._running.rate_is_read is False:
                pair = checked[index, name], group.number(name)
                if any_traced(pair) or pair[0] != pair[1]:
                    raise self._without_effect(name)
            if group.unused and (bare := group.unused & names_in_use(name, checked[index, name])):
                raise self._no_state(group, min(bare))
        if type(self).validate is not LiveNumbers.validate:
            for index in {index for index, _ in checked}:
                self._validate_changes(self._groups[index], checked)
        if for_all:
            checked |= {(TO_COME, name): value for (_, name), value in checked.items()}
        self._write(checked)

    def _nears_zero(self, group: int, name: str, value: Any) -> bool:
        """Whether a negative learning rate, as torch's schedulers make it, stays or is made less.

        Where a schedule comes down to 0 and the rate was changed before, rounding makes it so, too.
        """
        if name != 'lr' or not isinstance(value, float) or not value < 0.0:
            return False
        present = self._table.read(group, name)
        return type(present) is float and present <= value

    def _write(self, numbers: Mapping[tuple[int, str], Any]) -> None:
        """Write numbers of groups, and of those to come."""
        if names := {name for group, name in numbers if group == TO_COME} - self._assigned:
            # Before the table is written: it still has the old numbers then.
            self.__dict__['_assigned'] = self._assigned | names
        self._table.write(numbers)

    def _validate_changes(self, group: ParamGroup, changes: Mapping[tuple[int, str], Any]) -> None:
        numbers = {n: changes.get((group.index, n), group.number(n)) for n in self._numbers}
        self.validate(group.hyper(numbers))

    def _without_effect(self, name: str) -> AttributeError:
        if self._groups[0].fixed_chain is None:
            return AttributeError(
                f'the chain of this {type(self).__name__} does not read {name}: {HOW_TO_READ}.'
            )
        return AttributeError(
            f'{name} is baked into the chain of this {type(self).__name__}; override transform(h) '
            f'instead of default_tx() or tx= to keep it live.'
        )

    def _no_state(self, group: ParamGroup, name: str) -> ValueError:
        return ValueError(
            f'group {group.index} of {type(self).__name__} was built with {name}=0 and keeps no '
            f'state for it; construct it with {name} > 0 (any value may follow).'
        )

    def _no_option(self, name: str) -> str:
        known = sorted((*self._numbers, *self._flags))
        owner = type(self).__name__
        hint = argument_here(owner, name, OF_GROUPS) or did_you_mean(name, known)
        if name in CommonOptions.__annotations__:
            way = f'assign opt.{name}' if name in self._bounded_by else 'give it at construction'
            hint = f' {name} is an option of the whole optimizer: {way}.'
        return f'{owner} has no per-group option {name!r}; it has {", ".join(known)}.{hint}'
