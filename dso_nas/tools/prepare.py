"""`python -m dso_nas prepare`: record files to search on, out of a folder of images or an archive."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Tuple

from dso_nas.data.cifar import load_cifar
from dso_nas.data.preparation.encoding import Encoding
from dso_nas.data.preparation.folders import load_folder
from dso_nas.data.preparation.imagenet import load_imagenet
from dso_nas.data.preparation.pictures import Collection, PixelPicture
from dso_nas.data.preparation.writing import Division, join, split, write_collection
from dso_nas.data.record_files import scan_records
from dso_nas.errors import UserError

_SOURCES = {
    "folder": "images of your own: SOURCE/CLASS/*.jpg, or SOURCE/train/CLASS/*.jpg and SOURCE/val/CLASS/*.jpg",
    "imagenet": "ILSVRC 2012: train/ and val/ in class folders, or ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar",
    "cifar10": "CIFAR-10: cifar-10-python.tar.gz or cifar-10-binary.tar.gz, or what it unpacks to",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's subcommands."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for name, summary in _SOURCES.items():
        kind = kinds.add_parser(name, help=summary, description=summary)
        kind.add_argument("source", type=Path, metavar="SOURCE")
        kind.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the record files are to be")
        _add_division(kind)
        kind.add_argument("--val-share", type=float, default=0.1, metavar="X",
                          help="share of the images for val.rec where SOURCE has none (default: %(default)s)")
        kind.add_argument("--resize", type=int, default=0 if name == "cifar10" else 256, metavar="N",
                          help="pixels of the shorter edge, 0 to keep the size (default: %(default)s)")
        kind.add_argument("--square", action="store_true", help="cut the middle square out: images of one size")
        kind.add_argument("--quality", type=int, default=95, metavar="Q", help="of JPEG, 1 to 95 (default: 95)")
        if name == "imagenet":
            kind.add_argument("--val-labels", type=Path, metavar="FILE",
                              help="WordNet number of each validation image, where they are not in class folders")
    summary = "train1.rec and train2.rec out of DIR/train.rec"
    kind = kinds.add_parser("split", help=summary, description=summary)
    kind.add_argument("folder", type=Path, metavar="DIR")
    _add_division(kind)
    summary = "train.rec out of DIR/train1.rec and DIR/train2.rec"
    kind = kinds.add_parser("join", help=summary, description=summary)
    kind.add_argument("folder", type=Path, metavar="DIR")
    kind.add_argument("--seed", type=int, default=0, help="of the order (default: 0)")
    summary = "the images of COCO that have objects of PASCAL VOC's classes, as the segmentation data has them"
    kind = kinds.add_parser("coco-voc", help=summary, description=summary)
    kind.add_argument("source", type=Path, metavar="SOURCE")
    kind.add_argument("--out", type=Path, required=True, metavar="DIR")


def _add_division(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ratio", type=_ratio, default=(4, 1), metavar="X:Y",
                        help="images for the weights to images for the lambdas (default: 4:1)")
    parser.add_argument("--seed", type=int, default=0, help="of the division and the order (default: 0)")


def _ratio(text: str) -> Tuple[int, int]:
    try:
        first, second = (int(part) for part in text.split(":"))
    except ValueError:
        first = second = 0
    if not (0 < first < 1000 and 0 < second < 1000):
        raise argparse.ArgumentTypeError(f"{text}: must be two numbers from 1 to 999, as 4:1")
    return first, second


def run(options: argparse.Namespace) -> None:
    """Make the files and say what they hold.

    Raises:
        UserError: bad images, archives or options.
    """
    if options.kind == "coco-voc":
        from dso_nas.data.segmentation.coco import prepare_coco_voc

        prepare_coco_voc(options.source, options.out)
        return
    if options.seed < 0:
        raise UserError(f"--seed {options.seed}: must not be negative")
    if options.kind == "split":
        split(options.folder, options.ratio, options.seed)
    elif options.kind == "join":
        join(options.folder, options.seed)
    else:
        _prepare(options)
    _report(options.folder if options.kind in ("split", "join") else options.out)


def _prepare(options: argparse.Namespace) -> None:
    _check(options)
    division = Division(options.ratio, options.val_share, options.seed)
    encoding = Encoding(options.resize, options.square, options.quality)
    source = f"{options.kind} {options.source.resolve()}"
    write_collection(_collection(options), options.out, division, encoding, source)


def _check(options: argparse.Namespace) -> None:
    if not 0.001 <= options.val_share <= 0.9:
        raise UserError(f"--val-share {options.val_share}: must be from 0.001 to 0.9")
    if options.resize and not 8 <= options.resize <= 4096:
        raise UserError(f"--resize {options.resize}: must be from 8 to 4096, or 0 to keep the size")
    if not 1 <= options.quality <= 95:
        raise UserError(f"--quality {options.quality}: must be from 1 to 95")
    if options.source.is_dir() and options.source.resolve() == options.out.resolve():
        raise UserError(f"--out {options.out}: is SOURCE itself; give another folder")


def _collection(options: argparse.Namespace) -> Collection:
    if options.kind == "folder":
        return load_folder(options.source)
    if options.kind == "imagenet":
        return load_imagenet(options.source, options.val_labels)
    dataset = load_cifar("cifar10", options.source)
    train, val = ([PixelPicture(int(label), f"{part} image {number}", image)
                   for number, (image, label) in enumerate(zip(arrays.images, arrays.labels))]
                  for part, arrays in (("training", dataset.train), ("test", dataset.test)))
    return Collection(dataset.classes, train, val)


def _report(folder: Path) -> None:
    for path in sorted(folder.glob("*.rec")):
        scan = scan_records(path)
        print(f"{path}: {len(scan):,} images of {len(set(scan.labels.tolist())):,} classes")
