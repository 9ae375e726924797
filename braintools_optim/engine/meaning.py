"""What a function means: its code, and all that it refers to, as a key that changes with them.

A function that is traced once must be traced again when what it refers to has changed. It refers to
names that it encloses, to global ones, and to the attributes and entries of these, and so on
through the functions that it calls, unless a library defines them.
"""

from __future__ import annotations

import dis
import hashlib
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
from typing import Any

import jax
import numpy as np
from brainstate import State

__all__ = ['Meaning']

_CONSTANTS = frozenset([int, float, bool, str, bytes, complex, type(None)])
_LIBRARIES = frozenset(
    ['jax', 'jaxlib', 'numpy', 'brainstate', 'braintools_optim', 'optax', 'saiunit', 'builtins']
)
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
        if isinstance(x, list | tuple | set | frozenset):
            return list(islice(x, _MOST))
        own: Mapping[str, Any] = getattr(x, '__dict__', {})
        kinds = () if isinstance(x, ModuleType) else (x if isinstance(x, type) else type(x)).__mro__
        spaces = [own, *(vars(kind) for kind in kinds if not _is_foreign(kind))]
        found: list[Any] = []
        for name in ('__call__', *sorted(self._names - self._assigned)):
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


@cache
def _names(code: CodeType) -> tuple[dict[str, None], set[str], set[str]]:
    """Return names that code reads beyond its own, in order; and those, and attributes, it writes.

    Reading an attribute is reading a name.
    """
    read, assigned, attributes = dict.fromkeys(code.co_names), set(), set()
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
