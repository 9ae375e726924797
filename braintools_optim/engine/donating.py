"""The compiled programs of an eager step, which compute in the memory of the chain states."""

from __future__ import annotations

from functools import partial
from itertools import starmap
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from ..sharding import copies
from .buffers import refuse_deleted
from .chunks import Chunks, are_many
from .compiled import entry_of, matmul_precision, signature_of
from .gradient import refuse_non_arrays

if TYPE_CHECKING:
    from .computation import Computation

__all__ = ['Kind', 'StepArguments', 'StepPrograms', 'call_kind']

_CONTAINERS = frozenset([dict, list, tuple])


class StepArguments(NamedTuple):
    """What such a program takes."""

    values: list  # of the parameters
    leaves: list  # of the chain states, which are donated
    numbers: Any
    grads: Any
    extra: dict[str, Any]


Kind = tuple[tuple, Any, type, type, Any, tuple | None]
"""What is found out of arguments in no time; their signature is all that a program depends on.

It is what is static of the extra arguments, the tree of the chain states, the types of the numbers
and of the first gradient, the precision of products, and which of the extra arguments are weakly
typed: shapes and dtypes JAX compares itself.
"""


def call_kind(static: tuple, treedef: Any, args: StepArguments) -> Kind:
    """Return the kind of a step's arguments."""
    weak = None
    if args.extra:
        weak = tuple([getattr(x, 'weak_type', None) for x in jax.tree.leaves(args.extra)])
    first = _first_leaf_type(args.grads)
    # A NamedTuple would cost a hundredth of a small step.
    return static, treedef, type(args.numbers), first, matmul_precision(), weak


class StepPrograms:
    """The programs for the present parameters and groups of an optimizer.

    Each appends its results, the new leaves of the chain states and the new values, to a list of
    the caller's, so that they are there before Python can look for an interrupt.
    """

    def __init__(self, computation: Computation):
        self.computation = computation
        self.compiled: dict[Any, Any] = {}  # by signature
        self.entries: dict[Any, Any] = {}  # by kind: the entry of the program that ran last
        self.last_entry: Any = None  # that of the last step
        self.last_kind: Any = None  # the kind of its arguments
        self.met: set[Any] = set()  # kinds and signatures for which an entry needs no Python
        self.cut: dict[Any, Chunks | None] = {}  # by signature: the calls, None where not cut
        self.chunks: dict[Any, Chunks] = {}  # by kind: those that ran last

    def run_known(self, kind: Kind, args: StepArguments, result: list) -> None:
        """Run what ran last on arguments of this kind, if it fits; nothing has run otherwise."""
        if self.chunks and not args.extra and (chunks := self.chunks.get(kind)) is not None:
            chunks.run(args, result)
        entry = self.last_entry if kind == self.last_kind else self.entries.get(kind)
        if entry is None or result:
            return
        self.last_entry, self.last_kind = entry, kind
        try:
            result.extend(starmap(entry, (args,)))
        except (TypeError, ValueError):  # made for other gradients: nothing has run
            pass
        except RuntimeError:
            self._refuse_deleted(args)
            raise

    def run(self, kind: Kind, args: StepArguments, held: bool, result: list) -> None:
        """Check the arguments, find or compile what they need, and run it.

        ``held`` says that somebody may hold the state, so that what is donated are copies.
        """
        refuse_non_arrays(args.grads)
        self._refuse_deleted(args)
        self.computation.leaf_values(args.values)  # raises if a parameter is another tree now
        static, treedef, *_ = kind
        signature = static, treedef, *signature_of(args)
        if self._run_chunks(kind, signature, args, result):
            return
        program = self._program(signature, args)
        entry, met = entry_of(program), (kind, signature)
        if entry is None or met not in self.met:
            # A call through Python code, where an interrupt could lose the results after the
            # donated buffers are gone: donate copies.
            if not held:
                args = args._replace(leaves=copies(args.leaves))
            result.append(program(*args))
            self.met.add(met)
        else:
            result.extend(starmap(entry, (args,)))
        if (entry := entry_of(program)) is not None:
            self.entries[kind] = self.last_entry = entry
            self.last_kind = kind

    def _run_chunks(self, kind: Kind, signature: tuple, args: StepArguments, result: list) -> bool:
        """Run in several calls if the step is cut for these arguments; return whether it is."""
        static, treedef, *_ = kind
        if static or args.extra or not are_many(self.computation.leaves):
            return False
        if signature not in self.cut:
            self.cut[signature] = Chunks.of(self.computation, treedef, args)
        if (chunks := self.cut[signature]) is None or not chunks.run(args, result):
            return False
        self.chunks[kind] = chunks
        return True

    def _program(self, signature: tuple, args: StepArguments) -> Any:
        """Return the compiled program for these arguments."""
        if signature not in self.compiled:
            static, treedef, *_ = signature
            function = partial(self._flat, treedef, static)
            self.compiled[signature] = jax.jit(function, donate_argnums=1).lower(*args).compile()
        return self.compiled[signature]

    def _flat(
        self, treedef: Any, static: tuple, values: list, leaves: list, vector: Any, *rest: Any
    ) -> tuple[list, list]:
        grads, arrays = rest
        packed = jax.tree.unflatten(treedef, leaves)
        extra = {**arrays, **dict(static)}
        new, moved = self.computation.compute_alone(values, packed, vector, grads, extra)
        return jax.tree.leaves(new), moved

    def _refuse_deleted(self, args: StepArguments) -> None:
        names = [f'parameter {name!r}' for name in self.computation.manager.names]
        owner = type(self.computation.optimizer).__name__
        given = [
            ('the tree of gradients', args.grads),
            (f'an argument of {owner}.step', args.extra),
        ]
        refuse_deleted([*zip(names, args.values, strict=True), *given])


def _first_leaf_type(tree: Any) -> type:
    """Return the type of a tree's first leaf: programs take NumPy's arrays in another way."""
    while (kind := type(tree)) in _CONTAINERS and tree:
        tree = next(iter(tree.values() if kind is dict else tree))
    return kind
