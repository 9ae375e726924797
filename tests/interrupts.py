"""Stopping Python at a chosen line, as Control-C may."""

import gc
import sys
from pathlib import Path

import braintools_optim

EVERYWHERE = ('call', 'line', 'return')
PACKAGE = str(Path(braintools_optim.__file__).parent)


def interrupted(action, when, under=PACKAGE, events=('line',)):
    """Raise KeyboardInterrupt before the first line for which `when` is true of its frame.

    Only files under a path, or a tuple of paths, are looked at; as `events` also the beginnings and
    ends of calls (``EVERYWHERE``). Return that line, None if the action came through.
    """
    line = None

    def in_frame(frame, event, argument):
        nonlocal line
        if event in events and line is None and when(frame):
            line = f'{Path(frame.f_code.co_filename).name}:{frame.f_lineno}'
            raise KeyboardInterrupt
        return in_frame

    def in_call(frame, event, argument):
        below = frame.f_code.co_filename.startswith(under)
        return in_frame(frame, event, argument) if below else None

    before = sys.gettrace()
    gc.disable()  # Python ignores what is raised in the callbacks of a collection
    sys.settrace(in_call)
    try:
        action()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
        gc.enable()
    return line


def once_gone(arrays):
    """Return what is true as soon as the memory of one of these arrays was taken over."""
    return lambda frame: any(x.is_deleted() for x in arrays)


def nth(n, counts=lambda frame: True):
    """Return what is true of the n-th frame that counts."""
    left = n

    def when(frame):
        nonlocal left
        left -= counts(frame)
        return left == 0

    return when
