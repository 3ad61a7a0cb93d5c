"""Everything a user may hand over as a file, each with a valid example, ways to damage it, and what reads it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import struct
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.data.cifar import load_cifar
from dso_nas.data.classification import load_dataset
from dso_nas.data.splits import Split
from dso_nas.recipes import load_recipe
from dso_nas.recipes.yaml_text import parse_yaml
from dso_nas.training.checkpoint import MAGIC, VERSION, CheckpointFolder, read_checkpoint, write_checkpoint
from dso_nas.training.monitor import read_metrics
from tests.data.builders import (
    FORMS,
    cifar_files,
    image_record,
    random_images,
    small_dataset,
    write_archive,
    write_folder,
)
from tests.fuzz.mutations import BINARY_WORDS, JSON_WORDS, PICKLE_WORDS, YAML_WORDS, as_json, damages, grafts
from tests.torture.runs import RECIPE


class Target(NamedTuple):
    """`inputs` draws a function that lays a file into a fresh folder; `read` may answer with a UserError at most."""

    inputs: st.SearchStrategy[Callable[[Path], Any]]
    read: Callable[[Path], Any]


def _bytes_into(name: str, content: bytes, change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(change(content))


def _tree_into(name: str, tree: Any, change: Callable[[Any], Any],
               write: Callable[[Any], bytes] = as_json) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(write(change(tree)))


def _either(name: str, tree: Any, text: bytes, words: Any) -> st.SearchStrategy[Callable[[Path], Any]]:
    blind = damages(words).map(lambda change: _bytes_into(name, text, change))
    return blind | grafts().map(lambda change: _tree_into(name, tree, change))


RECIPE_TEXT = RECIPE + "profiles: {paper: {seed: 1}}\nprofile: paper\n"


def _recipe() -> Target:
    inputs = _either("recipe.yaml", parse_yaml(RECIPE_TEXT), RECIPE_TEXT.encode(), YAML_WORDS)
    return Target(inputs, lambda folder: load_recipe(folder / "recipe.yaml"))


def _override() -> Target:
    known = ["search.gamma", "network", "retrain.schedule.kind", "seed", "a.b", "", "profile"]
    words = st.sampled_from([word.decode("latin1") for word in YAML_WORDS])
    texts = st.builds("{}{}{}".format, st.sampled_from(known) | st.text(max_size=8), st.sampled_from(["=", "", "=="]),
                      words | st.text(max_size=12) | st.floats().map(str))

    def lay(text: str) -> Callable[[Path], Any]:
        return lambda folder: ((folder / "text").write_text(text, encoding="utf-8", newline=""),
                               (folder / "recipe.yaml").write_text(RECIPE))

    def read(folder: Path) -> None:
        load_recipe(folder / "recipe.yaml", None, [(folder / "text").read_bytes().decode("utf-8")])

    return Target(texts.map(lay), read)


def _genotype() -> Target:
    spec = NetworkSpec(BlockTopology(2, ("sep_conv_3x3", "max_pool_3x3")), "cifar", (1, 1), (4, 8), 10, (3, 32, 32))
    tree = Genotype.full(spec, "full").to_json()

    def read(folder: Path) -> None:
        genotype = Genotype.load(str(folder / "genotype.json"))
        genotype.check_fits(spec)
        genotype.save(str(folder / "again.json"))

    return Target(_either("genotype.json", tree, as_json(tree), JSON_WORDS), read)


def _split() -> Target:
    dataset = small_dataset()
    split = Split.of(dataset, 0, (1, 1))
    tree = {"format": "dso-nas-split", "version": 1, "dataset": split.dataset, "images": 40, "seed": 0,
            "ratio": [1, 1], "labels_sha256": split.labels_sha256, "sizes": {"weights": 20, "lambdas": 20},
            "weights": split.weights.tolist(), "lambdas": split.lambdas.tolist()}
    inputs = _either("split.json", tree, as_json(tree), JSON_WORDS)
    return Target(inputs, lambda folder: Split.load(folder / "split.json", dataset))


def _metrics() -> Target:
    lines = [{"stage": "search", "epoch": n, "step": 5, "name": "error", "value": 0.5} for n in range(4)]
    text = b"".join(as_json(line) + b"\n" for line in lines)
    structured = grafts().map(lambda change: _tree_into(
        "metrics.jsonl", lines, change, lambda tree: b"".join(as_json(line) + b"\n" for line in tree)))
    blind = damages(JSON_WORDS).map(lambda change: _bytes_into("metrics.jsonl", text, change))
    return Target(blind | structured, lambda folder: read_metrics(folder / "metrics.jsonl"))


def _checkpoint_parts(folder: Path) -> Any:
    write_checkpoint(folder / "valid", {"weight": np.arange(12, dtype=np.float32).reshape(3, 4), "step": np.array(7)},
                     {"position": {"epoch": 1, "ended": False}})
    content = (folder / "valid").read_bytes()
    start = struct.calcsize("<19sIQ")
    length = struct.unpack_from("<19sIQ", content)[2]
    return content, json.loads(content[start : start + length]), content[start + length : -32]


def _checkpoint(folder: Path) -> Target:
    content, header, data = _checkpoint_parts(folder)

    def sealed(tree: Any) -> bytes:
        text = as_json(tree)
        body = struct.pack("<19sIQ", MAGIC, VERSION, len(text)) + text + data
        return body + hashlib.sha256(body).digest()

    def resealed(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        return lambda whole: change(whole[:-32]) + hashlib.sha256(change(whole[:-32])).digest()

    name = "checkpoint-000000000001.dso"
    words = JSON_WORDS + BINARY_WORDS
    inputs = (damages(words).map(lambda change: _bytes_into(name, content, change))
              | damages(words).map(lambda change: _bytes_into(name, content, resealed(change)))
              | grafts().map(lambda change: _tree_into(name, header, change, sealed)))

    def read(place: Path) -> None:
        read_checkpoint(place / name)
        CheckpointFolder(place).latest()

    return Target(inputs, read)


def _image(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG" if seed % 2 else "JPEG")
    return stream.getvalue()


def _records() -> Target:
    content = b"".join(image_record(n % 3, _image(n)) for n in range(6))
    valid = {name: content for name in ("train1.rec", "train2.rec", "val.rec")}

    def lay(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
        return lambda folder: write_folder(folder, "set", {**valid, name: change(valid[name])})

    inputs = st.builds(lay, st.sampled_from(sorted(valid)), damages(BINARY_WORDS))
    return Target(inputs, lambda folder: load_dataset("records", str(folder / "set")))


CASES = sorted(FORMS)


def _cifar_files() -> Dict[Any, Dict[str, bytes]]:
    return {(name, form): cifar_files(name, form, random_images(n + 2, 3, n), random_images(n, 4, n))
            for name, form in CASES for n in [10 if name == "cifar10" else 100]}


def _batches() -> Target:
    """CIFAR's files in a folder: pickles and binary batches, one of them damaged."""
    whole = _cifar_files()

    def lay(case: Any, number: int, change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
        files = whole[case]
        name = sorted(files)[number % len(files)]
        return lambda folder: ((folder / "case").write_text(case[0]),
                               write_folder(folder, FORMS[case][1], {**files, name: change(files[name])}))

    inputs = st.builds(lay, st.sampled_from(CASES), st.integers(0, 7), damages(PICKLE_WORDS))
    return Target(inputs, lambda folder: load_cifar((folder / "case").read_text(), folder))


def _archive(place: Path) -> Target:
    """CIFAR's archives: damaged as they are, or inside the compression."""
    files = _cifar_files()
    whole = {case: write_archive(place / FORMS[case][0], FORMS[case][1], files[case]).read_bytes() for case in CASES}
    inside = {case: gzip.decompress(content) for case, content in whole.items()}

    def lay(case: Any, deep: bool, change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
        content = gzip.compress(change(inside[case]), 1) if deep else change(whole[case])
        return lambda folder: ((folder / "case").write_text(case[0]), (folder / FORMS[case][0]).write_bytes(content))

    words = BINARY_WORDS + (b"../../../etc/passwd", b"/etc/passwd", b"ustar\x0000", b"77777777777\0",
                            *(bytes([kind]) for kind in b"123456xLgS"))
    inputs = st.builds(lay, st.sampled_from(CASES), st.booleans(), damages(words))
    return Target(inputs, lambda folder: load_cifar((folder / "case").read_text(), folder))


def targets(place: Path) -> Dict[str, Target]:
    """All of them by name; valid examples are made in `place`."""
    place.mkdir(parents=True, exist_ok=True)
    return {"recipe": _recipe(), "override": _override(), "genotype": _genotype(), "split": _split(),
            "metrics": _metrics(), "checkpoint": _checkpoint(place), "records": _records(), "batches": _batches(),
            "archive": _archive(place)}


def clear(folder: Path) -> None:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
