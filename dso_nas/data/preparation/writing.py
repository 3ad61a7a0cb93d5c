"""A collection into record files in one folder: divided by a seed, shuffled, and finished after any interruption."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import numpy as np
from tqdm import tqdm

from dso_nas.data.preparation.encoding import Encoding
from dso_nas.data.preparation.pictures import Collection, Picture, labels_of
from dso_nas.data.record_files import RecordScan, scan_records
from dso_nas.data.record_writer import RecordWriter
from dso_nas.data.splits import choose_weights
from dso_nas.errors import UserError

PLAN = "preparation.json"
_BLOCK = 256


@dataclass(frozen=True)
class Division:
    """How a collection is divided.

    Attributes:
        ratio: images of train1.rec to images of train2.rec, in every class.
        val_share: of the images, those of val.rec where the collection has none of its own.
        seed: of both, and of the order.
    """

    ratio: Tuple[int, int]
    val_share: float
    seed: int

    def files(self, collection: Collection) -> Dict[str, List[Picture]]:
        """The images of train1.rec, train2.rec and val.rec, in their order.

        Raises:
            UserError: a file would be empty.
        """
        train, val = collection.train, collection.val
        if val is None:
            share = Fraction(self.val_share).limit_denominator(1000)
            train, val = self._divided(train, (share.denominator - share.numerator, share.numerator))
        weights, lambdas = self._divided(train, self.ratio)
        files = {"train1.rec": weights, "train2.rec": lambdas, "val.rec": list(val)}
        for name, pictures in files.items():
            if not pictures:
                raise UserError(f"{name}: {len(collection.train)} images are too few to give it one; add images, or "
                                "change --ratio or --val-share")
        rng = np.random.default_rng(self.seed)
        return {name: [pictures[place] for place in rng.permutation(len(pictures))] for name, pictures in files.items()}

    def _divided(self, pictures: Sequence[Picture], ratio: Tuple[int, int]) -> Tuple[List[Picture], List[Picture]]:
        chosen = choose_weights(labels_of(pictures), self.seed, ratio)
        return ([picture for picture, first in zip(pictures, chosen) if first],
                [picture for picture, first in zip(pictures, chosen) if not first])


def write_collection(collection: Collection, out: Path, division: Division, encoding: Encoding, source: str) -> None:
    """Make train1.rec, train2.rec, train.rec, val.rec, their indices and classes.txt.

    What an earlier call of the same content left in `out` is kept, a file that it had not finished too.

    Args:
        collection: the images.
        out: the folder; made if it is not there.
        division: which image goes into which file.
        encoding: what becomes of an image.
        source: what the folder's preparation.json says it was made from.

    Raises:
        UserError: a bad image, a folder that cannot be written or holds something else.
    """
    files = division.files(collection)
    _claim(out, {"source": source, **asdict(division), **asdict(encoding), "images": _checksum(files)})
    _write_text(out / "classes.txt", "".join(f"{name}\n" for name in collection.classes))
    for name, pictures in files.items():
        if not (out / name).exists():
            _write_pictures(out / name, pictures, encoding)
    join(out, division.seed)


def _checksum(files: Dict[str, List[Picture]]) -> str:
    digest = hashlib.sha256()
    for name, pictures in files.items():
        digest.update(f"{name} {len(pictures)}\n".encode())
        for picture in pictures:
            digest.update(f"{picture.label} {picture.where}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _claim(out: Path, plan: Dict[str, Any]) -> None:
    """Take the folder for this plan, or find that it is this plan's already."""
    path = out / PLAN
    text = json.dumps(plan, indent=1) + "\n"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if path.exists():
            if path.stat().st_size != len(text.encode()) or path.read_text(encoding="utf-8") != text:
                raise UserError(f"{path}: its folder holds record files of other images or options; give another "
                                "--out, or delete it")
            return
        if any(out.glob("*.rec")):
            raise UserError(f"{out}: holds record files of unknown origin; give another --out")
    except OSError as error:
        raise UserError(f"{out}: {error.strerror}; give an --out that can be written") from error
    _write_text(path, text)


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give an --out that can be written") from error


def _write_pictures(path: Path, pictures: Sequence[Picture], encoding: Encoding) -> None:
    with RecordWriter(path, resume=True) as writer:
        done = len(writer)
        with tqdm(total=len(pictures), initial=done, desc=path.name, unit=" images") as progress:
            for label, encoded in _encoded(pictures[done:], encoding):
                writer.write(label, encoded)
                progress.update()
        writer.finish()


def _encoded(pictures: Sequence[Picture], encoding: Encoding) -> Iterator[Tuple[int, bytes]]:
    """Encoded images in their order, a block at a time on all processors: decoders run without Python's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(pictures), _BLOCK):
            yield from pool.map(encoding, pictures[start : start + _BLOCK])


def join(folder: Path, seed: int) -> None:
    """Make train.rec, unless it is there: the records of train1.rec and train2.rec in an order of the seed's.

    Raises:
        UserError: one of them is missing or bad.
    """
    if (folder / "train.rec").exists():
        return
    halves = [scan_records(folder / name) for name in ("train1.rec", "train2.rec")]
    places = [(half, number) for half in halves for number in range(len(half))]
    order = np.random.default_rng(seed).permutation(len(places))
    _copy(folder / "train.rec", [places[place] for place in order])


def split(folder: Path, ratio: Tuple[int, int], seed: int) -> None:
    """Make train1.rec and train2.rec, unless they are there, out of train.rec, whose order they keep.

    Raises:
        UserError: it is missing, bad, or too small.
    """
    scan = scan_records(folder / "train.rec")
    chosen = choose_weights(scan.labels, seed, ratio)
    if chosen.all() or not chosen.any():
        raise UserError(f"{scan.path}: {len(scan)} records are too few for --ratio {ratio[0]}:{ratio[1]}")
    for name, wanted in (("train1.rec", chosen), ("train2.rec", ~chosen)):
        if not (folder / name).exists():
            _copy(folder / name, [(scan, number) for number in np.flatnonzero(wanted)])


def _copy(path: Path, records: Sequence[Tuple[RecordScan, int]]) -> None:
    """Write records of other files as they stand there."""
    streams = {scan.path: open(scan.path, "rb") for scan, _ in records}
    try:
        with RecordWriter(path) as writer:
            for scan, number in tqdm(records, desc=path.name, unit=" images"):
                start, end = scan.offsets[number : number + 2].tolist()
                streams[scan.path].seek(start)
                writer.write_framed(streams[scan.path].read(end - start))
            writer.finish()
    finally:
        for stream in streams.values():
            stream.close()
