from __future__ import annotations

from pathlib import Path

import mxnet as mx
import pytest

from dso_nas.data.record_files import check_index, read_image_records, scan_records
from dso_nas.data.record_writer import RecordWriter
from dso_nas.errors import UserError
from tests.data.builders import MAGIC


def test_mxnet_reads_what_is_written_by_its_index(tmp_path: Path) -> None:
    contents = [b"\xff\xd8" + bytes(number) for number in range(5)]
    contents += [MAGIC, b"abcd" + MAGIC + MAGIC + b"x", b"ab" + MAGIC]
    with RecordWriter(tmp_path / "a.rec") as writer:
        for number, content in enumerate(contents):
            writer.write(number, content)
        writer.finish()
    reader = mx.recordio.MXIndexedRecordIO(str(tmp_path / "a.idx"), str(tmp_path / "a.rec"), "r")
    for number in reversed(range(len(contents))):
        header, content = mx.recordio.unpack(reader.read_idx(number))
        assert content == contents[number] and (header.label, header.id) == (number, number)


def _image(number: int) -> bytes:
    # Every third one holds the magic word, and so takes several parts.
    return b"\xff\xd8" + bytes([number]) * number + (b"ab" + MAGIC if number % 3 == 0 else b"")


def _write(path: Path, numbers: range, resume: bool, finish: bool) -> int:
    with RecordWriter(path, resume) as writer:
        found = len(writer)
        for number in numbers[found:]:
            writer.write(number, _image(number))
        if finish:
            writer.finish()
    return found


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_an_unfinished_file_is_gone_on_with(tmp_path: Path, cut: int) -> None:
    _write(tmp_path / "whole.rec", range(9), resume=False, finish=True)
    _write(tmp_path / "a.rec", range(6), resume=False, finish=False)
    assert not (tmp_path / "a.rec").exists() and not (tmp_path / "a.idx").exists()
    partial = tmp_path / ".a.rec.partial"
    partial.write_bytes(partial.read_bytes()[: partial.stat().st_size - cut])
    found = _write(tmp_path / "a.rec", range(9), resume=True, finish=True)
    assert found == 6 if cut == 0 else found < 6
    for suffix in (".rec", ".idx"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert not partial.exists()


def test_without_resume_it_begins_anew(tmp_path: Path) -> None:
    _write(tmp_path / "a.rec", range(6), resume=False, finish=False)
    assert _write(tmp_path / "a.rec", range(2), resume=False, finish=True) == 0
    assert len(scan_records(tmp_path / "a.rec")) == 2


def test_a_scan_finds_what_reading_finds(tmp_path: Path) -> None:
    _write(tmp_path / "a.rec", range(12), resume=False, finish=True)
    scan = scan_records(tmp_path / "a.rec")
    records = list(read_image_records(tmp_path / "a.rec"))
    assert scan.labels.tolist() == [record.label for record in records] and records[6].encoded == _image(6)
    check_index(tmp_path / "a.idx", scan)
    assert scan.offsets[-1] == (tmp_path / "a.rec").stat().st_size


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        RecordWriter(tmp_path / "nowhere" / "a.rec")
