"""How far a long loop is, and how long it will still take."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Iterable, Iterator, NamedTuple, Optional, TypeVar

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5.0
SECONDS_WITHOUT_LINE = 60.0

Item = TypeVar("Item")


def progress(iterable: Iterable[Item], total: Optional[int], description: str) -> Iterator[Item]:
    """Yield the items, and show on stderr how many there were and how long the rest will take.

    On a terminal that is a bar; elsewhere plain lines, never more often than every 5 seconds, each after
    another tenth of the whole or a minute, and one at the end.

    Args:
        iterable: what to go through.
        total: how many there are; None if nobody knows.
        description: begins every line.
    """
    if sys.stderr.isatty():
        return iter(tqdm(iterable, total=total, desc=description, dynamic_ncols=True))
    return _with_lines(iterable, total, description)


class _Reading(NamedTuple):
    done: int
    seconds: float


def _with_lines(iterable: Iterable[Item], total: Optional[int], description: str) -> Iterator[Item]:
    started = time.monotonic()
    shown = now = _Reading(0, 0.0)
    for item in iterable:
        yield item
        now = _Reading(now.done + 1, time.monotonic() - started)
        if _is_worth_a_line(shown, now, total):
            _print_line(description, now, total)
            shown = now
    if now.done > shown.done:
        _print_line(description, now, total)


def _is_worth_a_line(shown: _Reading, now: _Reading, total: Optional[int]) -> bool:
    waited = now.seconds - shown.seconds
    further = total is not None and now.done - shown.done >= total / 10
    return waited >= SECONDS_WITHOUT_LINE or (waited >= SECONDS_BETWEEN_LINES and further)


def _print_line(description: str, now: _Reading, total: Optional[int]) -> None:
    rate = now.done / max(now.seconds, 1e-9)
    speed = f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
    if total:
        left = tqdm.format_interval(max(total - now.done, 0) / rate)
        line = f"{description}: {now.done}/{total} ({100 * now.done // total}%), {speed}, {left} left"
    else:
        line = f"{description}: {now.done}, {speed}"
    # Where the log lies on a full disk, training is to end with the line about the disk, not with this one.
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)
