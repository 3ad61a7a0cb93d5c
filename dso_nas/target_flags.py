"""The flags of the entry scripts that name a budget, and the recipe keys they stand for."""

from __future__ import annotations

import argparse
import re
from decimal import Decimal
from typing import List

from dso_nas.errors import UserError

FLAGS = {
    "--target-params": ("target_parameters", "parameters that retrain's width is chosen for, such as 4.7M"),
    "--target-flops": ("target_flops", "multiply-adds that retrain's width is chosen for, such as 571M; or the share "
                                       "of the supernet's at which search ends, such as 40%%"),
    "--target-mac": ("target_mac", "elements of memory access that retrain's width is chosen for"),
    "--target-latency": ("target_latency", "milliseconds that retrain's width is chosen for, measured here"),
}
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_COUNT = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)([kMG]?)")
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,20})?)%")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the flags."""
    for flag, (key, words) in FLAGS.items():
        parser.add_argument(flag, metavar="X", dest=key, help=words)


def recipe_keys(options: argparse.Namespace) -> List[str]:
    """`KEY=VALUE` for what was given; retrain's takes the place of the recipe's own target and width multiplier.

    Raises:
        UserError: a flag is no such number, does not go with the stage, or with another one.
    """
    given = {flag: getattr(options, key) for flag, (key, _) in FLAGS.items() if getattr(options, key) is not None}
    widths = [flag for flag, text in given.items() if not text.endswith("%")]
    if len(widths) > 1:
        raise UserError(f"{widths[1]}: {widths[0]} chooses the width already, give one of them")
    keys: List[str] = []
    for flag, text in given.items():
        keys += _width_keys(flag, text, options.stage) if flag in widths else [_share_key(flag, text, options.stage)]
    return keys


def _share_key(flag: str, text: str, stage: str) -> str:
    match = _SHARE.fullmatch(text)
    if flag != "--target-flops" or match is None:
        raise UserError(f"{flag} {text}: must be {_allowed(flag)}")
    if stage not in ("search", "all"):
        raise UserError(f"{flag} {text}: a share goes with search and all, not with {stage}")
    return f"search.target_flops_share={Decimal(match[1]) / 100:f}"


def _width_keys(flag: str, text: str, stage: str) -> List[str]:
    match = _COUNT.fullmatch(text)
    if match is None or (match[2] and flag == "--target-latency"):
        raise UserError(f"{flag} {text}: must be {_allowed(flag)}")
    if stage not in ("retrain", "evaluate", "all"):
        share = ", which takes a share such as 40%" if (flag, stage) == ("--target-flops", "search") else ""
        raise UserError(f"{flag} {text}: goes with retrain, evaluate and all, not with {stage}{share}")
    value = Decimal(match[1]) * _UNITS[match[2]]
    key = FLAGS[flag][0]
    others = [f"retrain.{other}=null" for other, _ in FLAGS.values() if other != key]
    return [*others, "retrain.width_multiplier=1",
            f"retrain.{key}={value:f}" if flag == "--target-latency" else f"retrain.{key}={round(value)}"]


def _allowed(flag: str) -> str:
    if flag == "--target-latency":
        return "milliseconds such as 12.5"
    return "a number such as 600000 or 4.7M" + (", or a share such as 40%" if flag == "--target-flops" else "")
