"""What a function means: its code, and all that it refers to, as a key that changes with them.

A function that is traced once must be traced again when what it refers to has changed. It refers to
names that it encloses, to global ones, and to the attributes and entries of these, and so on
through the functions that it calls. What a library defines means the same for ever, but may call
what it does not define: the functions that it wraps, and the methods of a class that is derived
from one of its own.
"""

from __future__ import annotations

import dataclasses
import dis
import hashlib
import sys
from array import array
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import cache, partial
from importlib.util import resolve_name
from types import (
    BuiltinMethodType,
    CellType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from brainstate import State

__all__ = ['CONSTRUCTORS', 'Meaning', 'Place', 'names_read']

_CONSTANTS = frozenset([int, float, bool, str, bytes, complex, type(None)])
_LIBRARIES = sys.stdlib_module_names | {
    *('jax', 'jaxlib', 'numpy', 'brainstate', 'braintools_optim', 'optax', 'saiunit', 'builtins')
}
_OF_CONTAINERS = frozenset(
    ['abc', 'collections', 'contextlib', 'dataclasses', 'enum', 'functools', 'types', 'typing']
)
"""Modules of Python whose classes hold what is the user's, and are looked into."""
_IMPLICIT = (
    *('__call__', '__getattr__', '__getitem__', '__missing__', '__iter__', '__next__', '__len__'),
    *('__contains__', '__enter__', '__exit__', '__bool__', '__int__', '__float__', '__index__'),
    *('__array__', '__jax_array__', '__get__', '__neg__', '__pos__', '__invert__', '__abs__'),
    '__round__',
    *(
        f'__{r}{op}__'
        for op in (
            *('add', 'sub', 'mul', 'truediv', 'floordiv', 'mod', 'divmod', 'pow', 'matmul'),
            *('and', 'or', 'xor', 'lshift', 'rshift'),
        )
        for r in ('', 'r', 'i')
    ),
)
"""What code may use of an object without naming it."""
_COMPARISONS = {
    '==': ['__eq__'],
    '!=': ['__ne__', '__eq__'],
    **dict.fromkeys(['<', '>'], ['__lt__', '__gt__']),
    **dict.fromkeys(['<=', '>='], ['__le__', '__ge__']),
}
"""What code uses that compares; the ``__eq__`` of a dataclass reads all that it has."""
CONSTRUCTORS = frozenset(['__new__', '__init__', '__post_init__'])
_REFLECTING = frozenset(['vars', '__dict__', 'asdict', 'astuple'])
"""Names by which code comes to all attributes of an object that some function refers to."""
_OF_DATACLASSES = 'fields', 'replace'
"""Functions by which it does, too, where they are those of `dataclasses`."""
_BY_TEXT = frozenset(['getattr', 'attrgetter', 'methodcaller'])
"""Names by which code comes to attributes that a text names."""
_MOST = 10_000  # objects that are looked into; further ones are known by their identity
_PLAIN_CONTAINERS = frozenset([dict, list, tuple, set, frozenset, deque, MappingProxyType])
"""What has entries, and no attributes of its own."""

Place: TypeAlias = tuple[int, Hashable]
"""The id of an object, and a key of what stands in it."""


class Meaning:
    """The meaning of a function at present.

    ``key`` is equal for functions of one code that refer to the same objects, whose attributes and
    entries are the same: so a ``lambda`` in a loop means one thing, and another one once an array
    that it reads has been replaced. States and JAX's arrays are known by identity, NumPy's arrays
    by their contents. What the code itself writes, such as a counter, is no part of it: ``apart``
    has the places of that, with the objects that they are in.
    """

    def __init__(self, function: Any, apart: Mapping[Place, Any]):
        self._apart = apart
        self._names: set[str] = set()  # of attributes that some code reads
        self._reflected: set[int] = set()  # objects of which it may read all attributes
        known = None
        while known != (known := (len(self._names), len(self._reflected))):
            self.kept: list[Any] = []  # all that is known by its id, to be kept alive
            self.inside: dict[int, dict[Hashable, Hashable]] = {}  # what stands in each object
            self.met: dict[Place, Any] = {}  # what of ``apart`` there is
            self._functions: dict[int, int] = {}
            self._parts: list[Hashable] = []
            self._sought = frozenset(self._names)
            top = self._token(function)
        self.key: Hashable = (top, *self._parts)
        self._apart = self.met  # all else is to be let go

    def written_since(self, before: Meaning) -> dict[Place, Any]:
        """Return the places where something else stood then, and the objects that they are in."""
        objects = {id(x): x for x in before.kept}
        places: dict[Place, Any] = {}
        for number, then in before.inside.items():
            now = self.inside.get(number, {})
            for key in then.keys() | now.keys():
                if key not in then or key not in now or then[key] != now[key]:
                    places[number, key] = objects[number]
        return places

    @property
    def _names_are_said(self) -> bool:
        """Whether a text may be the name of an attribute."""
        return not _BY_TEXT.isdisjoint(self._names)

    def _token(self, x: Any) -> Hashable:
        """Return what stands for an object in the parts of others."""
        if type(x) in _CONSTANTS:
            if type(x) is str and self._names_are_said:
                self._names |= _said(x)
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
            kinds = tuple(map(type, x))
            if _CONSTANTS.issuperset(kinds) and not (str in kinds and self._names_are_said):
                return 'constants', kinds, x
            return 'tuple', *map(self._token, x)
        if isinstance(x, array | bytearray):
            return 'bytes', type(x), bytes(memoryview(x))
        if isinstance(x, BuiltinMethodType) and not isinstance(x.__self__, ModuleType | type(None)):
            return 'method', x.__name__, self._token(x.__self__)
        number = id(x)
        self.kept.append(x)
        if (
            number not in self.inside
            and len(self.inside) < _MOST
            and not isinstance(x, State | jax.Array)
        ):
            self.inside[number] = part = {}  # before it is filled: it may hold itself
            for key, y in self._contents(x):
                if (number, key) in self._apart:
                    self.met[number, key] = x
                else:
                    part[key] = self._token(y)
            self._parts.append((number, *part.items()))
        return number

    def _contents(self, x: Any) -> Iterator[tuple[Hashable, Any]]:
        """Yield what in an object may matter, each under a key of its own."""
        if isinstance(x, dict | MappingProxyType):
            for k, v in tuple(x.items()):
                yield ('entry', *((type(k), k) if type(k) in _CONSTANTS else (self._token(k),))), v
        elif isinstance(x, list | tuple | set | frozenset | deque):
            yield ('entries',), tuple(x)
        if isinstance(x, FunctionType):  # a library's
            cells = [c.cell_contents for c in x.__closure__ or () if c != CellType()]
            functions = (c for c in cells if isinstance(c, FunctionType | MethodType | partial))
            yield from enumerate(functions)
        elif isinstance(x, ModuleType):
            yield from ((name, vars(x)[name]) for name in sorted(self._sought & vars(x).keys()))
        elif type(x) not in _PLAIN_CONTAINERS:
            yield from self._attributes(x)

    def _attributes(self, x: Any) -> Iterator[tuple[Hashable, Any]]:
        """Yield the attributes of an object that some code may read."""
        own: Any = getattr(x, '__dict__', None)
        own = own if isinstance(own, dict | MappingProxyType) else {}
        kind = _Kind.of(x if isinstance(x, type) else type(x))
        self._names |= kind.called
        names = {'__wrapped__', *kind.implicit} | self._sought
        if isinstance(x, type):
            names |= CONSTRUCTORS
        found: dict[Hashable, Any] = {}
        for depth, space in enumerate((*map(vars, reversed(kind.classes)), own)):
            here = {name: space[name] for name in space.keys() & names}
            if 'super' in self._sought:  # by which code comes to what is overridden
                found |= {(name, depth): found[name] for name in here.keys() & found.keys()}
            found |= here
        if id(x) in self._reflected:
            found |= own
        for name, value in sorted(found.items(), key=lambda item: str(item[0])):
            if isinstance(value, MemberDescriptorType) and not isinstance(x, type):  # a slot
                value = getattr(x, value.__name__, None)
            elif isinstance(value, property):
                value = value.fget
            elif isinstance(value, staticmethod | classmethod):
                value = value.__func__
            yield name, value

    def _function(self, x: FunctionType) -> int:
        """Return the number of a function among those of which there is a part."""
        number = self._functions.get(id(x))
        if number is None:
            number = self._functions[id(x)] = len(self._functions)
            self.kept.append(x)
            read, assigned, imported = _names(x.__code__)
            self._names |= read.keys()
            refers = [x.__globals__[n] for n in read if n in x.__globals__ and n not in assigned]
            refers += [m for each in sorted(imported) for m in _modules(*each, x.__globals__)]
            refers += [*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()]
            cells = zip(x.__code__.co_freevars, x.__closure__ or (), strict=True)
            refers += [c.cell_contents for n, c in cells if n not in assigned and c != CellType()]
            refers += [x.__dict__] * bool(x.__dict__)
            if _reflects(refers, read):
                self._names.add('__dict__')
            if not _REFLECTING.isdisjoint(self._names):
                self._reflected |= set(map(id, refers))
            self._parts.append((x.__code__, *map(self._token, refers)))
        return number


def _is_foreign(x: Any) -> bool:
    """Whether a function or class is a library's, which means the same for ever."""
    library = str(x.__module__).partition('.')[0]
    if library in _OF_CONTAINERS:  # their functions, too
        return isinstance(x, FunctionType) and x.__qualname__ == x.__name__
    return library in _LIBRARIES


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
        return cls(classes, implicit, names_read(kind, ['__call__'], _is_foreign))


def names_read(kind: type, methods: Iterable[str], counts: Callable[[type], bool]) -> set[str]:
    """Return the names that methods of a class read, with those methods that they name in turn.

    What a class defines that does not count is not looked into.
    """
    read: set[str] = set()
    ahead = [*methods]
    while ahead:
        name = ahead.pop()
        owner = next((k for k in kind.__mro__ if name in vars(k)), object)
        method = vars(owner).get(name)
        if isinstance(method, FunctionType) and counts(owner):
            names, *_ = _names(method.__code__)
            ahead += names.keys() - read
            read |= names.keys()
    return read


@cache
def _names(code: CodeType) -> tuple[dict[str, None], set[str], set[tuple[str, int]]]:
    """Return names that code reads beyond its own, in order, those that it assigns, and imports.

    Reading an attribute is reading a name.
    """
    read, assigned, imported = dict.fromkeys(code.co_names), set(), set()
    if not _BY_TEXT.isdisjoint(read):
        texts = (x for x in code.co_consts if isinstance(x, str))
        read |= dict.fromkeys(name for x in texts for name in sorted(_said(x)))
    before: list[Any] = [None, None]
    for instruction in dis.get_instructions(code):
        match instruction.opname:
            case 'EXTENDED_ARG':  # a part of the next one
                continue
            case 'STORE_GLOBAL' | 'STORE_DEREF':
                assigned.add(str(instruction.argval))
            case 'COMPARE_OP':
                read |= dict.fromkeys(_COMPARISONS[str(instruction.argval)])
            case 'IMPORT_NAME':  # how many packages up it begins was loaded two instructions before
                imported.add((str(instruction.argval), int(before[-2])))
        before = [before[-1], instruction.argval]
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            more, stored, within = _names(inner)
            read |= more
            assigned |= stored
            imported |= within
    return read, assigned - set(code.co_cellvars), imported


def _reflects(refers: list[Any], read: Mapping[str, None]) -> bool:
    """Whether code that refers to these objects and reads these names looks at all fields."""
    functions = [getattr(dataclasses, name) for name in _OF_DATACLASSES]
    if any(x is dataclasses for x in refers):
        return not read.keys().isdisjoint(_OF_DATACLASSES)
    return any(x is function for x in refers for function in functions)


def _said(text: str) -> set[str]:
    """Return the names of attributes that a text may say, as ``'layer.scale'``."""
    names = text.split('.')
    return set(names) if all(map(str.isidentifier, names)) else set()


def _modules(name: str, level: int, space: Mapping[str, Any]) -> list[Any]:
    """Return what code imports: a module, and the package that it is in, or None for each."""
    try:
        name = resolve_name('.' * level + name, space.get('__package__'))
    except ImportError:  # which that import raises, too, if it is ever made
        return []
    return [sys.modules.get(name), sys.modules.get(name.partition('.')[0])]
