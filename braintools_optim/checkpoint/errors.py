"""What can go wrong with a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ['CheckpointError', 'IncompatibleCheckpoint']


class CheckpointError(Exception):
    """A checkpoint could not be saved or restored; nothing was changed."""

    __module__ = 'braintools_optim'


class IncompatibleCheckpoint(CheckpointError, ValueError):
    """A checkpoint does not fit the live optimizer; ``differences`` lists all of them."""

    __module__ = 'braintools_optim'

    def __init__(self, differences: Sequence[str]):
        self.differences = list(differences)
        listed = '\n'.join(f'  - {line}' for line in self.differences)
        super().__init__(f'the checkpoint does not fit this optimizer:\n{listed}')
