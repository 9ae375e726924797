"""What a function means: its code, and all that it refers to, as a key that changes with them.

A function that is traced once must be traced again when what it refers to has changed. It refers to
names that it encloses, to global ones, and to the attributes and entries of these, and so on
through the functions that it calls. What a library defines means the same for ever, but may call
what it does not define: the functions that it wraps, and the methods of a class that is derived
from one of its own.
"""

from __future__ import annotations

import dis
import hashlib
from collections import deque
from collections.abc import Hashable, Mapping
from functools import cache, partial
from itertools import islice
from types import (
    CellType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any, NamedTuple

import jax
import numpy as np
from brainstate import State

__all__ = ['Meaning']

_CONSTANTS = frozenset([int, float, bool, str, bytes, complex, type(None)])
_LIBRARIES = frozenset(
    ['jax', 'jaxlib', 'numpy', 'brainstate', 'braintools_optim', 'optax', 'saiunit', 'builtins']
)
_IMPLICIT = (
    *('__call__', '__getattr__', '__getitem__', '__missing__', '__iter__', '__next__', '__len__'),
    *('__contains__', '__enter__', '__bool__', '__int__', '__float__', '__index__', '__array__'),
    *('__jax_array__', '__neg__', '__abs__'),
    *(
        f'__{r}{op}__'
        for op in ('add', 'sub', 'mul', 'truediv', 'pow', 'matmul')
        for r in ('', 'r')
    ),
)
"""What code may use of an object without naming it."""
_MOST = 10_000  # objects that are looked into; further ones are known by their identity


class Meaning:
    """The meaning of a function at present.

    ``key`` is equal for functions of one code that refer to the same objects, whose attributes and
    entries are the same: so a ``lambda`` in a loop means one thing, and another one once an array
    that it reads has been replaced. States and JAX's arrays are known by identity, NumPy's arrays
    by their contents. What the code itself assigns, such as a counter, is no part of it, nor is
    what is inside of objects with the ids ``apart``.
    """

    def __init__(self, function: Any, apart: Mapping[int, Any]):
        self._apart = apart
        self._names: set[str] = set()  # of attributes that some code reads ...
        self._assigned: set[str] = set()  # ... and writes
        known = None
        while known != (known := (len(self._names), len(self._assigned))):
            self.kept: list[Any] = []  # all that is known by its id, to be kept alive
            self.inside: dict[int, tuple] = {}  # what stands in each object
            self._functions: dict[int, int] = {}
            self._parts: list[Hashable] = []
            self._sought = sorted(self._names - self._assigned)
            top = self._token(function)
        self.key: Hashable = (top, *self._parts)

    def written_since(self, before: Meaning) -> dict[int, Any]:
        """Return the objects that had something else inside then."""
        changed = {i for i, part in before.inside.items() if self.inside.get(i) != part}
        return {id(x): x for x in before.kept if id(x) in changed}

    def _token(self, x: Any) -> Hashable:
        """Return what stands for an object in the parts of others."""
        if type(x) in _CONSTANTS:
            return type(x), x
        if isinstance(x, MethodType):
            return self._token(x.__func__), self._token(x.__self__)
        if isinstance(x, FunctionType) and not _is_foreign(x):
            return 'function', self._function(x)
        if isinstance(x, np.ndarray) and not x.dtype.hasobject:
            digest = hashlib.blake2b(np.ascontiguousarray(x).view(np.uint8).data).digest()
            return 'array', x.shape, x.dtype.str, digest
        if isinstance(x, partial):
            return 'partial', *map(self._token, (x.func, x.args, *x.keywords.items()))
        if type(x) is tuple:
            return 'tuple', *map(self._token, x[:_MOST])
        number = id(x)
        self.kept.append(x)
        if (
            number not in self.inside
            and number not in self._apart
            and len(self.inside) < _MOST
            and not isinstance(x, State | jax.Array)
        ):
            self.inside[number] = ()  # it may hold itself
            self.inside[number] = part = tuple(map(self._token, self._contents(x)))
            self._parts.append((number, *part))
        return number

    def _contents(self, x: Any) -> list[Any]:
        """Return what in an object may matter."""
        if isinstance(x, dict):
            return list(islice((y for item in x.items() for y in item), _MOST))
        if isinstance(x, list | tuple | set | frozenset | deque):
            return list(islice(x, _MOST))
        if isinstance(x, FunctionType):  # a library's
            cells = [c.cell_contents for c in x.__closure__ or () if c != CellType()]
            return [c for c in cells if isinstance(c, FunctionType | MethodType | partial)]
        own: Mapping[str, Any] = getattr(x, '__dict__', {})
        if isinstance(x, ModuleType):
            return [own.get(name) for name in self._sought]
        kind = _Kind.of(x if isinstance(x, type) else type(x))
        self._names |= kind.called
        spaces = [own, *map(vars, kind.classes)]
        found: list[Any] = [own.get('__wrapped__')]
        for name in (*kind.implicit, *self._sought):
            value = next((space[name] for space in spaces if name in space), None)
            if isinstance(value, MemberDescriptorType) and not isinstance(x, type):  # a slot
                value = getattr(x, name, None)
            elif isinstance(value, property):
                value = value.fget
            elif isinstance(value, staticmethod | classmethod):
                value = value.__func__
            found.append(value)
        return found

    def _function(self, x: FunctionType) -> int:
        """Return the number of a function among those of which there is a part."""
        number = self._functions.get(id(x))
        if number is None:
            number = self._functions[id(x)] = len(self._functions)
            self.kept.append(x)
            read, assigned, attributes = _names(x.__code__)
            self._names |= read.keys()
            self._assigned |= attributes
            refers = [x.__globals__[n] for n in read if n in x.__globals__ and n not in assigned]
            refers += [*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()]
            cells = zip(x.__code__.co_freevars, x.__closure__ or (), strict=True)
            refers += [c.cell_contents for n, c in cells if n not in assigned and c != CellType()]
            self._parts.append((x.__code__, *map(self._token, refers)))
        return number


def _is_foreign(x: Any) -> bool:
    """Whether a function or class is a library's, which means the same for ever."""
    return str(x.__module__).partition('.')[0] in _LIBRARIES


class _Kind(NamedTuple):
    """What is to be known of a class."""

    classes: list[type]  # itself and those that it is derived from, if no library defines them
    implicit: list[str]  # what these have that need not be named
    called: set[str]  # the names that a library's methods read when an object is called

    @classmethod
    @cache
    def of(cls, kind: type) -> _Kind:
        """Return it for a class, once."""
        classes = [k for k in kind.__mro__ if not _is_foreign(k)]
        implicit = [name for name in _IMPLICIT if any(name in vars(k) for k in classes)]
        return cls(classes, implicit, _names_of_call(kind))


def _names_of_call(kind: type) -> set[str]:
    """Return the names that a library's methods read where an object of a class is called."""
    read: set[str] = set()
    written: set[str] = set()
    ahead = ['__call__']
    while ahead:
        name = ahead.pop()
        owner = next((k for k in kind.__mro__ if name in vars(k)), object)
        method = vars(owner).get(name)
        if isinstance(method, FunctionType) and _is_foreign(owner):
            names, _, attributes = _names(method.__code__)
            ahead += names.keys() - read
            read |= names.keys()
            written |= attributes
    return read - written


@cache
def _names(code: CodeType) -> tuple[dict[str, None], set[str], set[str]]:
    """Return names that code reads beyond its own, in order; and those, and attributes, it writes.

    Reading an attribute is reading a name.
    """
    read, assigned, attributes = dict.fromkeys(code.co_names), set(), set()
    if 'getattr' in read:
        read |= dict.fromkeys(x for x in code.co_consts if isinstance(x, str) and x.isidentifier())
    for instruction in dis.get_instructions(code):
        if instruction.opname in ('STORE_GLOBAL', 'STORE_DEREF'):
            assigned.add(str(instruction.argval))
        elif instruction.opname == 'STORE_ATTR':
            attributes.add(str(instruction.argval))
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            more, stored, written = _names(inner)
            read |= more
            assigned |= stored
            attributes |= written
    return read, assigned, attributes
