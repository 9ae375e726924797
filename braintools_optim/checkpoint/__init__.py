"""Saving and restoring optimizers."""

from .errors import CheckpointError, IncompatibleCheckpoint

__all__ = ['CheckpointError', 'IncompatibleCheckpoint']
