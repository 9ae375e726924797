"""Numbered checkpoints in a directory: the newest and the best are kept."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..check import check_choice, check_count, check_flag, check_metric
from ..errors import CheckpointError, CorruptCheckpoint
from .atomic import sweep
from .background import Saving
from .judge import LoadReport
from .whole import restore, write

__all__ = ['Checkpointer']

_CHECKS: dict[str, Callable[..., Any]] = {  # of attributes, whenever they are assigned
    'keep': lambda owner, name, x: None if x is None else check_count(owner, name, x, 1),
    'keep_best': check_count,
    'mode': partial(check_choice, allowed=('min', 'max')),
    'background': partial(check_flag, like=False),
}
_NAME = re.compile(r'step-(\d+)(?:\.metric-([^/]+))?\.ckpt')


class NumberedFile(NamedTuple):
    """A checkpoint in the directory, as its name tells."""

    step: int
    metric: float | None
    path: Path


class Checkpointer:
    """Saves a training state to numbered files, and keeps those worth keeping.

    Every file is whole at every instant, and old ones go only when the new one is there. Steps and
    metrics are read from the names of the files; there is no index that could be wrong.

    Parameters
    ----------
    directory : str
        Where the files are; it is made if it does not exist.
    tree : nested dict or list
        What is saved and restored: optimizers, schedulers, States, data (see `save`).
    keep : int, optional
        How many of the newest are kept; None for all.
    keep_best : int
        How many of those with the best metric are kept in addition.
    mode : {'min', 'max'}
        Which metric is best.
    background : bool
        Write while the training goes on; each save waits for the one before.

    Examples
    --------
    >>> import brainstate, jax.numpy as jnp
    >>> import braintools_optim as bo
    >>> w = brainstate.ParamState(jnp.ones(3))
    >>> opt = bo.SGD(0.1, momentum=0.9).register_trainable_weights({'w': w})
    >>> keeper = bo.Checkpointer('run', {'opt': opt, 'model': {'w': w}}, keep=2, keep_best=1)
    >>> for step, loss in enumerate([0.3, 0.1, 0.2, 0.4]):
    ...     path = keeper.save(step, metric=loss)
    >>> keeper.steps(), keeper.latest().name
    ([1, 2, 3], 'step-00000003.metric-0.4.ckpt')
    >>> keeper.restore().step
    3
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        tree: Any = None,
        *,
        keep: int | None = 3,
        keep_best: int = 0,
        mode: str = 'min',
        background: bool = False,
    ):
        self.directory = Path(os.path.abspath(directory))
        self.tree = tree
        self.keep, self.keep_best, self.mode = keep, keep_best, mode
        self.background = background
        self._saving: Saving | None = None
        self.directory.mkdir(parents=True, exist_ok=True)
        sweep(self.directory)

    def __setattr__(self, name: str, value: Any) -> None:
        check = _CHECKS.get(name)
        super().__setattr__(name, value if check is None else check('Checkpointer', name, value))

    # ---- what there is -------------------------------------------------------------------

    def _kept(self) -> list[NumberedFile]:
        """Return the checkpoints in their order, of each step what was written last."""
        return list({k.step: k for k in self._files()}.values())

    def _files(self) -> list[NumberedFile]:
        """Return all files, in the order of their steps, and of their writing.

        There are two of one step where a save was stopped before it had removed what it replaces.
        What another process removes while this one looks has been replaced: it looks again.
        """
        looks, found = 0, None
        while found is None or not (found or looks > 1):  # one look may miss a file and the next
            looks, found = looks + 1, self._found()
        return found

    def _found(self) -> list[NumberedFile] | None:
        """Return all files, None if one is gone before it was looked at."""
        found = []
        for entry in self.directory.iterdir():
            match = _NAME.fullmatch(entry.name)
            if match is None or entry.is_dir():
                continue
            try:
                metric = None if match[2] is None else float(match[2])
            except ValueError:
                continue  # somebody else's file
            try:
                written = entry.stat().st_mtime_ns
            except FileNotFoundError:
                return None
            found.append((written, NumberedFile(int(match[1]), metric, entry)))
        found.sort(key=lambda each: (each[1].step, each[0], each[1].path.name))
        return [kept for _, kept in found]

    def steps(self) -> list[int]:
        """Return the steps for which there is a checkpoint."""
        self.wait()
        return [kept.step for kept in self._kept()]

    def latest(self) -> Path | None:
        """Return the newest checkpoint, None if there is none."""
        self.wait()
        kept = self._kept()
        return kept[-1].path if kept else None

    def best(self) -> Path | None:
        """Return the checkpoint with the best metric, None if none has one."""
        self.wait()
        ranked = self._ranked(self._kept())
        return ranked[0].path if ranked else None

    def _ranked(self, kept: list[NumberedFile]) -> list[NumberedFile]:
        """Return those with a metric, the best first; among equals the newest."""
        sign = 1.0 if self.mode == 'min' else -1.0
        known = [k for k in kept if k.metric is not None and not math.isnan(k.metric)]
        return sorted(known, key=lambda k: (sign * k.metric, -k.step))  # type: ignore[operator]  # only those with a metric

    # ---- saving --------------------------------------------------------------------------

    def save(self, step: int, tree: Any = None, *, metric: Any = None) -> Path:
        """Write a checkpoint, then remove what need not be kept; return its path.

        Parameters
        ----------
        step : int
            The number of the checkpoint; one of the same number is replaced.
        tree : nested dict or list, optional
            What is saved instead of what the constructor was given.
        metric : float, optional
            How good it is.
        """
        if not isinstance(step, bool) and hasattr(step, '__index__'):  # an array, too
            step = step.__index__()
        step = check_count('Checkpointer.save', 'step', step, bits=63)
        metric = None if metric is None else check_metric('Checkpointer.save', 'metric', metric)
        self.wait()
        score = '' if metric is None else f'.metric-{metric!r}'
        path = self.directory / f'step-{step:08d}{score}.ckpt'
        self._saving = write(
            path,
            self._tree(tree),
            background=self.background,
            more={'step': step, 'metric': metric},
            then=lambda: self._prune(path),
        )
        return path

    def wait(self) -> None:
        """Wait for what is being written; raise if writing failed."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.wait()

    def _tree(self, tree: Any) -> Any:
        tree = self.tree if tree is None else tree
        if tree is None:
            raise ValueError(
                'Checkpointer was given nothing to save or restore; give it a tree, here or when '
                'it is constructed.'
            )
        return tree

    def _prune(self, newest: Path) -> None:
        files = self._files()
        latest = {k.step: k for k in files} | {k.step: k for k in files if k.path == newest}
        kept = list(latest.values())
        stay = {k.path for k in (kept if self.keep is None else kept[-self.keep :])}
        stay |= {k.path for k in self._ranked(kept)[: self.keep_best]} | {newest}
        for path in {k.path for k in files} - stay:
            path.unlink(missing_ok=True)

    # ---- restoring -----------------------------------------------------------------------

    def restore(
        self,
        tree: Any = None,
        *,
        step: int | None = None,
        skip_damaged: bool = False,
        strict: bool = True,
        cast: bool = False,
        rename: Mapping[str, str] | None = None,
    ) -> LoadReport | None:
        """Restore the newest checkpoint, or that of a step: all of it, or nothing.

        Parameters
        ----------
        tree : nested dict or list, optional
            What is restored instead of what the constructor was given.
        step : int, optional
            Which one; the newest if not given.
        skip_damaged : bool
            Take the newest that is whole, with a warning, instead of raising.
        strict, cast, rename
            As in `restore`.

        Returns
        -------
        The report, with ``step`` and the data as ``extra``; None if there is no checkpoint yet.
        """
        self.wait()
        kept = self._kept()
        if step is not None:
            steps = [each.step for each in kept]
            if step not in steps:
                raise CheckpointError(
                    f'{self.directory} has no checkpoint of step {step}; it has {steps}.'
                )
            kept = [kept[steps.index(step)]]
        options: dict[str, Any] = {'strict': strict, 'cast': cast, 'rename': rename}
        for each in reversed(kept):
            try:
                report = restore(each.path, self._tree(tree), **options)
            except FileNotFoundError:
                if each.path.exists():
                    raise
                # Another process has removed it meanwhile: there is a newer one.
                return self.restore(tree, step=step, skip_damaged=skip_damaged, **options)
            except CorruptCheckpoint as error:
                if not skip_damaged or each is kept[0]:
                    others = [k.step for k in self._kept() if k.path != each.path]
                    error.add_note(
                        f'This is {each.path}; others are of the steps {others}: '
                        f'restore(step=...), or restore(skip_damaged=True) for the newest of all.'
                    )
                    raise
                warnings.warn(
                    f'{each.path} is damaged ({error}); trying an older one.',
                    RuntimeWarning,
                    stacklevel=2,
                )
                continue
            report.step = each.step
            return report
        return None
