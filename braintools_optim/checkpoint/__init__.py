"""Saving and restoring: the file, and optimizers and whole training states in it.

``file`` and what it stands on knows bytes and nested data, nothing of optimizers. ``export`` and
``restore`` know optimizers, nothing of files. ``single``, ``whole`` and ``rotation`` join them.
"""

from .errors import CheckpointError, CorruptCheckpoint, IncompatibleCheckpoint, SaveError

__all__ = ['CheckpointError', 'CorruptCheckpoint', 'IncompatibleCheckpoint', 'SaveError']
