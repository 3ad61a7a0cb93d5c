"""Ends a process that waits for something that will never come."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Optional

STALLED = 75


class Watchdog:
    """Ends the process with status 75 when `alive` has not been called for `seconds`; before the first call it waits.

    MXNet's waits neither time out nor can they be interrupted, and a thread of ours still runs during them.
    """

    def __init__(self, seconds: float, reason: str) -> None:
        self._seconds = seconds
        self._reason = reason
        self._allowed = seconds
        self._deadline: Optional[float] = None
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def alive(self, patience: float = 1.0) -> None:
        """Begin to wait anew, `patience` times as long as usual."""
        self._allowed = self._seconds * patience
        self._deadline = time.monotonic() + self._allowed

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._seconds / 4)):
            if self._deadline is not None and time.monotonic() > self._deadline:
                print(f"error: nothing happened for {self._allowed:g} s: {self._reason}", file=sys.stderr, flush=True)
                os._exit(STALLED)
