"""A progress bar for long saves and loads, where tqdm is installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ['LONG', 'progress_bar']

LONG = 1 << 30  # bytes from which on a person waits


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], Any]]:
    """Give a function that is told how many bytes were done."""
    if total <= LONG or importlib.util.find_spec('tqdm') is None:
        yield int  # takes the number, and shows nothing
        return
    tqdm = importlib.import_module('tqdm').tqdm
    with tqdm(total=total, desc=what, unit='B', unit_scale=True, unit_divisor=1024) as bar:
        yield bar.update
