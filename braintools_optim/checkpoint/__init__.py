"""Saving and restoring: the file, and optimizers and whole training states in it.

- Bytes and nested data, nothing of optimizers: `file`, on `record`, `checksum`, `codec`, `header`,
  `tree`, `dtype`, `memory`, `atomic` and `reserve`.
- Optimizers, nothing of files: `export`, `restore` with `restore_slots`, and `pending`, with
  `judge` and `devices`.
- Both: `single` (an optimizer), `whole` (a training state), `rotation` (numbered files), with
  `background` and `progress_bar`.
- Data of users: `nested`.
- What is in a file, for people: `describe`, `table`.
- Files of ``braintools.optim``: `legacy`, `legacy_slot`.
"""

from ..errors import CheckpointError, CorruptCheckpoint, IncompatibleCheckpoint, SaveError

__all__ = ['CheckpointError', 'CorruptCheckpoint', 'IncompatibleCheckpoint', 'SaveError']
