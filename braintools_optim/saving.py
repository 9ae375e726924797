"""Saving and restoring an optimizer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .checkpoint import single
from .checkpoint.background import Saving
from .checkpoint.export import export
from .checkpoint.judge import Judge, LoadReport
from .checkpoint.pending import Pending, take_over
from .checkpoint.restore import Saved

__all__ = ['Savable']


class Savable:
    """Mixin of `OptaxOptimizer`: saving to plain data or a file, and restoring."""

    state_schema = 1
    """The version of what a class keeps: raise it when a name comes to mean another thing."""
    added_options: Mapping[int, Mapping[str, Any]] = {}
    """By version: the options that came with it, each with the value that means none of it."""

    _pending: Pending | None  # a checkpoint that waits for parameters

    def state_dict(self) -> dict[str, Any]:
        """Return a snapshot of everything but the parameters, as nested plain data."""
        return export(self)  # type: ignore[arg-type]  # mixed into one

    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        *,
        strict: bool = True,
        cast: bool = False,
        rename: Mapping[str, str] | None = None,
    ) -> LoadReport:
        """Take over a snapshot, or raise with every difference, having changed nothing.

        Before parameters are registered it is kept, and applied once all of its parameters are;
        without strictness whenever some are, and the report then says what was found.

        Parameters
        ----------
        state_dict : dict
            What :meth:`state_dict` returned, also after msgpack, orbax or pickle.
        strict : bool
            With False what is missing or unexpected is left alone and reported.
        cast : bool
            Take over arrays of another precision, too.
        rename : dict of str
            New names of parameters, or of all under a name (``{'encoder': 'backbone'}``).
        """
        return take_over(self, Saved(state_dict), Judge(strict, cast, rename))  # type: ignore[arg-type]  # mixed into one

    def save(
        self,
        path: str | os.PathLike,
        params: bool = False,
        extra: Any = None,
        background: bool = False,
    ) -> Saving | None:
        """Write everything into a file; at every instant the whole old or new one is there.

        Parameters
        ----------
        path : str
            The file; it is replaced.
        params : bool
            Write the parameters, too.
        extra : nested dict or list, optional
            Data of your own: numbers, text, arrays.
        background : bool
            Take a snapshot, and write it while the training goes on: call ``wait()`` on what is
            returned before you rely on the file.
        """
        return single.save(self, path, params, extra, background)  # type: ignore[arg-type]  # mixed into one

    def load(
        self,
        path: str | os.PathLike,
        strict: bool = True,
        cast: bool = False,
        rename: Mapping[str, str] | None = None,
    ) -> LoadReport:
        """Take over a file that :meth:`save` wrote, with the parameters if it has them.

        The arguments and the rest are those of :meth:`load_state_dict`. What was given as
        ``extra`` is in the report.
        """
        return single.load(self, path, Judge(strict, cast, rename))  # type: ignore[arg-type]  # mixed into one

    def _algorithm(self) -> str:
        """Return what checkpoints of it are called: its class, and what else makes it different."""
        return type(self).__name__

    def _apply_pending(self) -> None:
        if self._pending is not None:
            self._pending.apply(self)  # type: ignore[arg-type]  # mixed into one
