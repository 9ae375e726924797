"""What can go wrong with a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ['CheckpointError', 'CorruptCheckpoint', 'IncompatibleCheckpoint', 'SaveError']


class CheckpointError(Exception):
    """A checkpoint could not be saved or restored; nothing was changed."""


class CorruptCheckpoint(CheckpointError):
    """A file is damaged, cut off, or no checkpoint; ``record`` and ``offset`` tell where."""

    def __init__(self, problem: str, record: int, offset: int):
        self.problem, self.record, self.offset = problem, record, offset
        super().__init__(problem, record, offset)

    def __str__(self) -> str:
        return (
            f'the checkpoint is damaged: {self.problem} (record {self.record}, byte '
            f'{self.offset}); nothing of it was used: restore another copy'
        )


class IncompatibleCheckpoint(CheckpointError, ValueError):
    """A checkpoint does not fit what it is loaded into; ``differences`` lists all of them."""

    def __init__(self, differences: Sequence[str]):
        self.differences = list(differences)
        listed = '\n'.join(f'  - {line}' for line in self.differences)
        super().__init__(f'the checkpoint does not fit what it is loaded into:\n{listed}')


class SaveError(CheckpointError):
    """A file could not be written; the old one is intact. The cause is chained."""
