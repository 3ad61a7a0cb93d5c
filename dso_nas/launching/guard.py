"""Runs one command of a distributed run on the machine it is for, and takes it along when the launcher is gone.

`python -m dso_nas.launching.guard COMMAND...`: the command and the guard are one process group. A line on the guard's
stdin is the number of a signal for the command alone; the end of stdin, which comes when the launcher or its ssh
connection ends however it ends, kills the group. The exit status is the command's, 128 + n if signal n ended it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import List


def main(command: List[str]) -> int:
    """Run `command` to its end."""
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    # A terminal's Ctrl-C is the launcher's to pass on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_take_interrupts)
    except OSError as error:
        print(f"error: {command[0]}: cannot be started: {error.strerror}", file=sys.stderr)
        return 127
    threading.Thread(target=_obey, args=(process,), daemon=True).start()
    status = process.wait()
    return 128 - status if status < 0 else status


def _take_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _obey(process: subprocess.Popen) -> None:
    for line in sys.stdin:
        process.send_signal(int(line))
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
