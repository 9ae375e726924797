"""How strictly a checkpoint is judged: what is refused, what is only reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ..check import check_flag
from ..errors import IncompatibleCheckpoint

if TYPE_CHECKING:
    from ..schedulers.scheduler import Scheduler

__all__ = ['Judge', 'LoadReport']


@dataclass
class LoadReport:
    """How a checkpoint differs from what it was loaded into; all is empty if it fits exactly.

    Attributes
    ----------
    missing : list of str
        What the checkpoint lacks; it stays as it was.
    unexpected : list of str
        What the checkpoint has and nothing here takes.
    cast : list of str
        Arrays that came in another precision.
    renamed : dict of str
        The new names of parameters, under those in the checkpoint.
    waiting : bool
        Whether it is kept, to be applied once the parameters are registered.
    extra
        The user's own data in the checkpoint, None if it has none.
    step : int, optional
        Which of the checkpoints of a `Checkpointer` it was.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    cast: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    waiting: bool = False
    extra: Any = None
    step: int | None = None


class Judge:
    """Collects every difference of a checkpoint from what is live.

    Parameters
    ----------
    strict : bool
        Whether what is missing, or too much, is refused; otherwise it is reported.
    cast : bool
        Whether arrays may come in another precision.
    rename : dict of str
        New names of parameters, or of all parameters under a name, by those in the checkpoint;
        the name '' stands for all.
    """

    def __init__(
        self, strict: bool = True, cast: bool = False, rename: Mapping[str, str] | None = None
    ):
        given = {} if rename is None else rename
        texts = [*given, *given.values()] if isinstance(given, Mapping) else [None]
        if not all(isinstance(x, str) for x in texts):
            raise TypeError(
                f'rename takes a dict of new names of parameters by those in the checkpoint, got '
                f'{rename!r}.'
            )
        self.strict = check_flag('load', 'strict', strict, True)
        self.may_cast = check_flag('load', 'cast', cast, False)
        self.rename = dict(given)
        self.wrong: list[str] = []
        self.report = LoadReport()
        self._used: set[str] = set()
        self._names: set[str] = set()

    def anew(self) -> Judge:
        """Return a judge of the same strictness that has seen nothing."""
        return Judge(self.strict, self.may_cast, self.rename)

    def of_part(self) -> Judge:
        """Return a judge of a part, with whom it shares what was renamed."""
        new = self.anew()
        new._used, new._names, new.report.renamed = self._used, self._names, self.report.renamed
        return new

    def refuse(self, line: str) -> None:
        """Note a difference that nothing excuses."""
        self.wrong.append(line)

    def refuse_all(self, lines: Iterable[str], where: str = '') -> None:
        """Note several differences of one part."""
        self.wrong += [f'{where}: {line}' if where else line for line in lines]

    def as_dict(self, value: Any, what: str) -> Mapping[str, Any]:
        """Return a dict; what is none is refused, and taken for an empty one."""
        if isinstance(value, Mapping):
            return value
        self.refuse(f'{what} must be a dict, got {type(value).__name__}')
        return {}

    def passed(self, check: Callable[[], Any], where: str = '') -> Any:
        """Return what a check returns; what it raises is refused, and None returned."""
        try:
            return check()
        except (TypeError, ValueError) as error:
            self.refuse(f'{where}: {error}' if where else str(error))
            return None

    def missing(self, line: str) -> None:
        """Note what the checkpoint lacks."""
        (self.wrong if self.strict else self.report.missing).append(line)

    def unexpected(self, line: str) -> None:
        """Note what only the checkpoint has."""
        (self.wrong if self.strict else self.report.unexpected).append(line)

    def unknown(self, given: Iterable, known: Iterable, where: str = '') -> None:
        """Note the keys that only the checkpoint has."""
        for key in sorted(set(given) - set(known), key=str):
            self.unexpected(f'{where and f"{where}: "}{key!r} is unknown here')

    def scheduler(self, scheduler: Scheduler, state: Any, where: str = '') -> None:
        """Judge the snapshot of a scheduler."""
        for line in scheduler.peculiar(state):
            self.unexpected(f'{where}: {line}' if where else line)
        self.refuse_all(scheduler.differences(state), where)

    def conclude(self) -> LoadReport:
        """Raise with all that was refused, or return the report."""
        if self.wrong:
            raise IncompatibleCheckpoint(self.wrong)
        return self.report

    # ---- names ---------------------------------------------------------------------------

    def new_name(self, name: str) -> str:
        """Return the name that a parameter of the checkpoint has here."""
        self._names.add(name)
        ends = (i for i in range(len(name), -1, -1) if not i or name[i : i + 1] in ('', '.', '['))
        old = next((name[:i] for i in ends if name[:i] in self.rename), None)
        if old is None:
            return name
        self._used.add(old)
        new, rest = self.rename[old], name[len(old) :].removeprefix('.')
        between = '.' if new and rest and not rest.startswith('[') else ''
        self.report.renamed[name] = new + between + rest
        return self.report.renamed[name]

    def renamed(self, entries: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return what stands under names of parameters under their names here."""
        found: dict[str, Any] = {}
        for name, value in entries.items():
            new = self.new_name(name) if isinstance(name, str) else name
            if new in found:
                self.refuse(f'{where}: two parameters of the checkpoint would be called {new!r}')
            found[new] = value
        return found

    def check_rename(self) -> None:
        """Refuse what was to be renamed and is not in the checkpoint."""
        for old in sorted(set(self.rename) - self._used):
            known = sorted(self._names - {''})
            self.refuse(f'rename: the checkpoint has no parameter {old!r}; it has {known}')

    # ---- arrays --------------------------------------------------------------------------

    def array(self, value: Any, like: Any, what: str) -> np.ndarray | None:
        """Return an array for the place of a live one, None if it does not fit there."""
        try:
            found = np.asarray(value)
        except (TypeError, ValueError):
            self.refuse(f'{what} must be an array, got {type(value).__name__}')
            return None
        # What is not JAX's yet is saved as it is, and later as JAX made it.
        own = like.dtype if isinstance(like, jax.Array) else np.asarray(like).dtype
        if isinstance(own, np.dtype):
            own = own.newbyteorder('=')  # another order is no other precision
        shape, dtype = tuple(np.shape(like)), jax.dtypes.canonicalize_dtype(own)
        if found.shape == shape and found.dtype in (dtype, own):
            return found
        fits = found.shape == shape and self.may_cast and _kind(found.dtype) == _kind(dtype) != ''
        cast = self._cast(found, dtype, what) if fits else None
        if cast is None:
            self.refuse(
                f'{what} is {found.dtype}{list(found.shape)}, here it is {dtype}{list(shape)}'
            )
        return cast

    def _cast(self, value: np.ndarray, dtype: Any, what: str) -> np.ndarray | None:
        with np.errstate(over='ignore', invalid='ignore'):
            new = value.astype(dtype)
        if _kind(dtype) == 'integer':
            fits = bool(np.all(new.astype(np.object_) == value.astype(np.object_)))
        else:
            fits = bool(np.all(np.isfinite(new) == np.isfinite(value)))
        if not fits:
            self.refuse(f'{what} has values of {value.dtype} that {dtype} cannot hold')
            return None
        self.report.cast.append(f'{what} from {value.dtype} to {dtype}')
        return new


def _kind(dtype: Any) -> str:
    """Return the kind of number within which a dtype may be changed."""
    for kind in (jnp.integer, jnp.floating, jnp.complexfloating):
        if jnp.issubdtype(dtype, kind):
            return kind.__name__
    return ''
