"""What ends a command before its time: bad input, or a signal."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: the message names the file, key or flag and the fix; the command line prints it and exits with 2."""


class Stopped(Exception):
    """A signal asked the run to stop; the checkpoint is written."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number
