"""The one way a file of the project's is written: whole, on the disk, or not at all."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Iterable, Iterator, Union

from dso_nas.errors import UserError

PARTIAL = ".partial"


def write_durably(path: Union[str, Path], chunks: Iterable[Any]) -> None:
    """Write a file of bytes such that its name leads to the whole old content or the whole new one.

    Args:
        path: the file; its folder exists. One process at a time writes it.
        chunks: bytes-like pieces, joined.

    Raises:
        UserError: the disk is full or cannot be written; nothing is left of the new file.
    """
    with replacing(path) as partial, open(partial, "wb") as stream:
        stream.writelines(chunks)


@contextmanager
def replacing(path: Union[str, Path]) -> Iterator[Path]:
    """The name to write a file under that takes `path`'s place, once it is on the disk, at the block's end.

    Raises:
        UserError: the disk is full or cannot be written; nothing is left of the new file, as after any other error.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise cannot(path, "be written", error) from error
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make new names in a folder outlast a power failure, on file systems that can promise it.

    Raises:
        OSError: the disk fails.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def cannot(path: Path, what: str, error: OSError) -> UserError:
    """The line that says what the operating system refused to do with a file."""
    reason = error.strerror or error
    return UserError(f"{path}: cannot {what}: {reason}; make room or allow it, or choose another --work-dir")
