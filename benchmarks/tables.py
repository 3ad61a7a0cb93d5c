"""The results as Markdown tables."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables(results: Mapping[str, Any]) -> str:
    """Speed and memory by size, by live connections, and by depth."""
    return "\n\n".join([_speed(results["sizes"]), _memory(results["sizes"]), _live(results["live"]),
                        _depth(results["depth"])])


def _speed(sizes: Mapping[str, Any]) -> str:
    rows: List[List[str]] = []
    for size in sizes.values():
        base = size["literal"]
        for way in (way for way, values in size.items() if isinstance(values, dict) and "weights" in values):
            seconds = size[way]
            cells = [f"{size['batch'] / seconds[kind]:.2f} ({base[kind] / seconds[kind]:.1f}x)"
                     for kind in ("weights", "lambdas")]
            rows.append([size["title"], str(size["batch"]), way, *cells])
    return table(["supernet", "batch", "run", "weight step, img/s", "lambda step, img/s"], rows)


def _memory(sizes: Mapping[str, Any]) -> str:
    rows = []
    for size in sizes.values():
        peaks = [f"{size[way]['peak_mb']:.0f}" for way in ("literal", "plain", "mirrored")]
        plans = [f"{size[way]['planned_mb']}" for way in ("literal", "plain", "mirrored")]
        agreement = ", ".join(f"{size['agreement'][part]:.0e}" for part in ("outputs", "gradients", "worst"))
        rows.append([size["title"], str(size["batch"]), *peaks, *plans, agreement])
    return table(["supernet", "batch", "literal, peak MB", "plain, peak MB", "mirrored, peak MB", "literal, planned MB",
                  "plain, planned MB", "mirrored, planned MB", "outputs, gradients, worst parameter differ by"], rows)


def _live(live: Mapping[Any, Dict[str, Any]]) -> str:
    full = next(iter(live.values()))
    rows = [[f"{percent}", f"{row['connections']:.0f}",
             f"{row['weights']:.2f} s ({row['weights'] / full['weights']:.0%})",
             f"{row['lambdas']:.2f} s ({row['lambdas'] / full['lambdas']:.0%})", f"{row['rebuild']:.2f} s"]
            for percent, row in live.items()]
    return table(["lambdas left, %", "live connections", "weight step", "lambda step", "rebuild"], rows)


def _depth(depth: Mapping[Any, Dict[str, Any]]) -> str:
    rows = [[str(blocks), f"{row['plain']['peak_mb']:.0f}", f"{row['mirrored']['peak_mb']:.0f}",
             f"{row['ratio']:.2f}"] for blocks, row in depth.items()]
    return table(["blocks", "plain, peak MB", "mirrored, peak MB", "time, mirrored to plain"], rows)
