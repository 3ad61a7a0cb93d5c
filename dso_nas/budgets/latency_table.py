"""A table of measured layer latencies, whose sum stands for a network's where it cannot be measured.

The file is JSON: what it was measured on and how, the space it is for, and milliseconds by entry. What entries there
are, and how many of each a network has, is the space's business (`dso_nas.budgets.layer_latency`).
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, Dict, Mapping, NoReturn, Optional, Sequence, Union

import numpy as np

from dso_nas.errors import UserError
from dso_nas.files import write_durably

FORMAT = "dso-nas-latency-table"
VERSION = 1
MAX_BYTES = 2**20
# A rank correlation below it says that sums do not order networks as measurements do.
GOOD_ENOUGH = 0.9
_KEYS = ("format", "version", "space", "device", "batch", "statistic", "environment", "check", "entries")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A layer's milliseconds, and the spread of its runs as `Latency.spread` has it."""

    milliseconds: float
    spread: float


@dataclasses.dataclass(frozen=True)
class Check:
    """How well sums ordered some random architectures that were measured as well: Spearman's rank correlation."""

    architectures: int
    rank_correlation: float

    @property
    def is_good(self) -> bool:
        """Whether sums may stand for measurements."""
        return self.rank_correlation >= GOOD_ENOUGH


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """Entries by name, for batches of `batch` images on `device` of the machine in `environment`.

    `space` says in JSON values what the entries depend on, `statistic` which protocol they were taken by.
    """

    space: Mapping[str, Any]
    device: str
    batch: int
    statistic: str
    environment: Mapping[str, Any]
    entries: Mapping[str, Entry]
    check: Optional[Check] = None

    def total(self, counts: Mapping[str, int]) -> float:
        """Milliseconds of a network that has `counts` of each entry; all have to be in the table."""
        return sum(number * self.entries[name].milliseconds for name, number in counts.items())

    def check_fits(self, space: Mapping[str, Any], names: Sequence[str], where: str) -> None:
        """Check that the table is of `space` and has the entries `names`; `where` begins the error.

        Raises:
            UserError: saying what differs.
        """
        for key in {**space, **self.space}:
            if self.space.get(key) != space.get(key):
                raise UserError(f"{where}: the latency table is of another space, its {key[:40]} is "
                                f"{repr(self.space.get(key))[:80]} and the network's {space.get(key)!r}; make one with "
                                "python -m dso_nas latency")
        missing = [name for name in names if name not in self.entries]
        if missing:
            raise UserError(f"{where}: the latency table has no entry {missing[0]!r}; make one with python -m dso_nas "
                            "latency")

    def save(self, path: Union[str, Path]) -> None:
        """Write the file.

        Raises:
            UserError: it cannot be written.
        """
        content = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}
        text = json.dumps({key: content[key] for key in _KEYS}, indent=1, allow_nan=False)
        write_durably(path, [(text + "\n").encode("utf-8")])

    @classmethod
    def load(cls, path: Union[str, Path]) -> LatencyTable:
        """Read and check a file.

        Raises:
            UserError: naming the file and the key that is wrong.
        """
        return _Reader(str(path)).table()


class _Reader:
    """Every rule a table's file must keep."""

    def __init__(self, path: str) -> None:
        self.path = path

    def table(self) -> LatencyTable:
        content = self.keys(self.content(), "the file", _KEYS)
        for key, value in (("format", FORMAT), ("version", VERSION)):
            if content[key] != value or isinstance(content[key], bool):
                self.refuse(key, content[key], repr(value))
        batch = content["batch"]
        if not isinstance(batch, int) or isinstance(batch, bool) or not 1 <= batch <= 65_536:
            self.refuse("batch", batch, "a whole number from 1 to 65536")
        entries = self.mapping(content["entries"], "entries")
        return LatencyTable(
            self.mapping(content["space"], "space"), self.word(content, "device"), batch,
            self.word(content, "statistic"), self.mapping(content["environment"], "environment"),
            {name: self.entry(entry, f"entries.{name}") for name, entry in entries.items()},
            None if content["check"] is None else self.check(content["check"]))

    def content(self) -> Any:
        try:
            with open(self.path, "rb") as stream:
                raw = stream.read(MAX_BYTES + 1)
        except OSError as error:
            raise UserError(f"{self.path}: cannot read the latency table: {error.strerror}") from error
        if len(raw) > MAX_BYTES:
            raise UserError(f"{self.path}: larger than {MAX_BYTES >> 20} MB, no latency table is")
        try:
            return json.loads(raw.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.path}: not a latency table's JSON, make one with python -m dso_nas latency") \
                from error

    def entry(self, content: Any, key: str) -> Entry:
        self.keys(content, key, ("milliseconds", "spread"))
        return Entry(self.number(content, key, "milliseconds"), self.number(content, key, "spread"))

    def check(self, content: Any) -> Check:
        self.keys(content, "check", ("architectures", "rank_correlation"))
        self.number(content, "check", "architectures")
        return Check(int(content["architectures"]), self.number(content, "check", "rank_correlation", -1.0))

    def number(self, content: Mapping[str, Any], key: str, name: str, low: float = 0.0) -> float:
        value = content[name]
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= sys.float_info.max:
            self.refuse(f"{key}.{name}", value, f"a finite number of at least {low:g}")
        return float(value)

    def word(self, content: Mapping[str, Any], key: str) -> str:
        if not isinstance(content[key], str):
            self.refuse(key, content[key], "a text")
        return content[key]

    def keys(self, content: Any, key: str, names: Sequence[str]) -> Dict[str, Any]:
        if set(self.mapping(content, key)) != set(names):
            odd = sorted(set(content) ^ set(names))[0]
            raise UserError(f"{self.path}: {key}: {odd[:40]!r} is {'missing' if odd in names else 'no key'}, it has "
                            f"{', '.join(names)}")
        return content

    def mapping(self, content: Any, key: str) -> Dict[str, Any]:
        if not isinstance(content, dict):
            self.refuse(key, content, "an object")
        return content

    def refuse(self, key: str, value: Any, allowed: str) -> NoReturn:
        raise UserError(f"{self.path}: {key[:80]}: {repr(value)[:40]} is not {allowed}")


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's: the correlation of ranks, equal values sharing theirs; 0 where all of a side are equal."""
    ranks = np.array([_ranks(np.asarray(one)), _ranks(np.asarray(other))])
    deviations = ranks - ranks.mean(axis=1, keepdims=True)
    scale = np.sqrt((deviations**2).sum(axis=1).prod())
    return float(deviations.prod(axis=0).sum() / scale) if scale else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    below = (values[:, None] > values[None, :]).sum(axis=1)
    equal = (values[:, None] == values[None, :]).sum(axis=1)
    return below + (equal - 1) / 2
