"""The run's folder as each worker sees it: the first one's is the real one, the others' a copy of what a stage reads.

So workers need no file system in common, two never write one file, and all go on from the same checkpoint. What the
others write into their copy is thrown away with it, and what they would print of it is not shown.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Iterator, Union

from dso_nas.errors import UserError
from dso_nas.files import write_durably
from dso_nas.training.checkpoint import CheckpointError, CheckpointFolder
from dso_nas.training.workers import Workers
from dso_nas.training.workfolder import WorkFolder

_FILES = ("split.json", "metrics.jsonl", "search/genotype.json")


@contextmanager
def run_folder(path: Union[str, Path], workers: Workers) -> Iterator[WorkFolder]:
    """The work folder of this worker, locked; every worker calls it at the same time.

    Raises:
        UserError: the folder cannot be used, or another run uses it.
    """
    if workers.rank:
        with tempfile.TemporaryDirectory(prefix=f"dso-nas-worker-{workers.rank}-") as scratch:
            _receive(WorkFolder(scratch), workers)
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                yield WorkFolder(scratch)
    else:
        folder = WorkFolder(path)
        with folder.lock():
            if workers.count > 1:
                _send(folder, workers)
            yield folder


def _send(folder: WorkFolder, workers: Workers) -> None:
    paths = list(_wanted(folder.path))
    workers.share_first(json.dumps([str(path.relative_to(folder.path)) for path in paths]).encode())
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}; allow it") from error
        workers.share_first(content)


def _receive(folder: WorkFolder, workers: Workers) -> None:
    for name in json.loads(workers.share_first(b"")):
        path = folder.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, [workers.share_first(b"")])


def _wanted(path: Path) -> Iterator[Path]:
    """What a stage reads of earlier ones: small files, and of every stage's checkpoints the newest that reads well."""
    yield from (path / name for name in _FILES if (path / name).is_file())
    for parent in sorted({found.parent for found in path.rglob("checkpoint-*.dso")}):
        try:
            latest = CheckpointFolder(parent, warn=lambda text: None).latest()
        except CheckpointError:
            continue
        if latest is not None:
            yield latest.path
