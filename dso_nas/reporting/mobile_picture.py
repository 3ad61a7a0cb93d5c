"""The picture of a mobile genotype in the manner of the paper's Fig. 7: a row of boxes for each group of blocks."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dso_nas.architecture.mobile import MOBILE_OPERATIONS, MobileSpec, MobileUnit
from dso_nas.architecture.mobile_genotype import MobileGenotype
from dso_nas.reporting.block_picture import draw_box, tint
from dso_nas.reporting.canvas import (
    INK,
    OPERATION_COLORS,
    PLAIN,
    SHORTCUT_DOTS,
    house_style,
    save_figure,
)

# A kernel has the colour of the normal space's convolution with the same one.
KERNEL_COLORS: Dict[int, str] = {kernel: OPERATION_COLORS[f"sep_conv_{kernel}x{kernel}"] for kernel in (3, 5, 7)}
# In inches. A box is as high as its expansion is large, a column wide enough for its text.
SIDE, TOP, LEGEND = 0.25, 0.95, 0.3
BOX, GAP = 1.0, 0.36
HEIGHTS = {3: 0.34, 6: 0.5}
BETWEEN, LABEL = 0.08, 1.65
BAR = 0.07
ROW_GAP = 0.34


def draw_mobile(genotype: MobileGenotype, spec: MobileSpec, stem_path: str, title: str = "Found architecture") -> None:
    """Draw a genotype into `stem_path`.svg and `stem_path`.png.

    A row is a group, a box an operation with its expansion and kernel, the higher the larger its expansion; several
    left in a block stand above each other. Dots are shortcuts; a block of nothing else is one.

    Raises:
        GenotypeError: the genotype does not fit the macro-structure.
        UserError: a file cannot be written.
    """
    genotype.check_fits(spec)
    with house_style():
        figure = _Page(genotype, spec).draw(title)
        for suffix in (".svg", ".png"):
            save_figure(figure, f"{stem_path}{suffix}")


class _Page:
    """A page in inches, filled from the top; `y` is how far."""

    def __init__(self, genotype: MobileGenotype, spec: MobileSpec) -> None:
        self.genotype, self.spec = genotype, spec
        self.columns = max(blocks for _, blocks, _ in spec.groups)
        self.width = max(2 * SIDE + LABEL + self.columns * (BOX + GAP) + GAP, 6.2)
        self.figure = Figure()
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.y = TOP

    def draw(self, title: str) -> Figure:
        self.write(SIDE, 0.3, title, 14, weight="bold")
        self.write(SIDE, 0.6, _summary(self.genotype), 10, color=PLAIN)
        spec, first = self.spec, self.spec.first_unit
        self.fixed(f"conv 3×3, stride 2: {spec.stem_width} channels, {_pixels(spec.stem_size)}")
        self.fixed(f"MBConv1 3×3: {first.channels} channels")
        units = spec.units()
        for stage in range(1, len(spec.groups) + 1):
            self.row([unit for unit in units if unit.stage == stage])
        self.fixed(f"conv 1×1: {spec.feature_width} channels, pool, classifier of {spec.classes}")
        self.legend()
        self.axes.set_xlim(0, self.width)
        self.axes.set_ylim(self.y, 0)
        self.figure.set_size_inches(self.width, self.y)
        return self.figure

    def fixed(self, text: str) -> None:
        """A part that is not searched."""
        self.write(SIDE, self.y, text, 9, color=PLAIN)
        self.y += 0.26

    def row(self, units: Sequence[MobileUnit]) -> None:
        """The blocks of a group, in the order that the data goes."""
        height = max(_height(self.genotype.block(unit)) for unit in units)
        middle = self.y + height / 2
        first = units[0]
        self.write(SIDE, middle - 0.09, f"Group {first.stage}: {first.channels} channels", 9, weight="bold")
        stride = f", stride {first.stride}" if first.stride > 1 else ""
        self.write(SIDE, middle + 0.09, f"{_pixels(first.size)}{stride}", 8.5, color=PLAIN)
        for column, unit in enumerate(units):
            self.block(unit, SIDE + LABEL + GAP + column * (BOX + GAP), middle)
        self.y += height + ROW_GAP

    def block(self, unit: MobileUnit, x: float, middle: float) -> None:
        """The operations left in a block, one above the other, and its shortcut below them."""
        live = self.genotype.block(unit)
        self.line((x - GAP, x - BAR), middle, unit.name)
        self.line((x + BOX + BAR, x + BOX + GAP), middle, unit.name)
        if not live:
            self.line((x - BAR, x + BOX + BAR), middle, f"{unit.name}_alone", SHORTCUT_DOTS)
            return
        height = _height(live)
        y = middle - height / 2
        middles = []
        for name in live:
            self.operation(unit, name, x, y)
            own = HEIGHTS[MOBILE_OPERATIONS[name].expansion]
            middles.append(y + own / 2)
            y += own + BETWEEN
        for bar in (x - BAR, x + BOX + BAR):
            self.axes.plot((bar, bar), (min(*middles, middle), max(*middles, middle)), color=PLAIN, linewidth=1.4)
        if unit.shortcut:
            self.shortcut(x, middle, height / 2 + 0.09, unit.name)

    def operation(self, unit: MobileUnit, name: str, x: float, y: float) -> None:
        """One box, and the lines on both of its sides."""
        operation = MOBILE_OPERATIONS[name]
        height = HEIGHTS[operation.expansion]
        self.line((x - BAR, x + BOX + BAR), y + height / 2, f"{unit.name}_{name}")
        draw_box(self.axes, (x, y), (BOX, height), KERNEL_COLORS[operation.kernel], f"{unit.name}_{name}")
        text = f"MB{operation.expansion} {operation.kernel}×{operation.kernel}"
        self.write(x + BOX / 2, y + height / 2, text, 9, color=INK, ha="center", zorder=4)

    def shortcut(self, x: float, middle: float, below: float, name: str) -> None:
        """Dots from a block's input around its operations to its output."""
        left, right = x - GAP / 2, x + BOX + GAP / 2
        corners = ([left, left, right, right], [middle, middle + below, middle + below, middle])
        self.axes.plot(*corners, color=PLAIN, linestyle=SHORTCUT_DOTS, linewidth=1.2, gid=f"{name}_shortcut")

    def line(self, ends: Tuple[float, float], y: float, name: str, style: Any = "-") -> None:
        self.axes.plot(ends, (y, y), color=PLAIN, linestyle=style, linewidth=1.4, gid=f"{name}_line", zorder=1)

    def legend(self) -> None:
        kernels = sorted({MOBILE_OPERATIONS[name].kernel for name in self.genotype.operations})
        handles: List[Any] = [Patch(facecolor=tint(KERNEL_COLORS[kernel]), edgecolor=KERNEL_COLORS[kernel],
                                       label=f"kernel {kernel}×{kernel}") for kernel in kernels]
        handles.append(Line2D([], [], color=PLAIN, linestyle=SHORTCUT_DOTS, label="shortcut"))
        self.axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(SIDE, self.y),
                         bbox_transform=self.axes.transData, ncol=len(handles), fontsize=9, frameon=False, borderpad=0,
                         borderaxespad=0)
        self.y += LEGEND

    def write(self, x: float, y: float, text: str, size: float, **more: Any) -> None:
        self.axes.text(x, y, text, fontsize=size, va="center", **more)


def _height(live: Sequence[str]) -> float:
    """Of a block's boxes with the gaps between them; a block without any is a line."""
    heights = [HEIGHTS[MOBILE_OPERATIONS[name].expansion] for name in live]
    return sum(heights) + BETWEEN * (len(heights) - 1) if heights else 0.25


def _pixels(size: Tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _summary(genotype: MobileGenotype) -> str:
    blocks = len(genotype.blocks)
    empty = sum(not live for live in genotype.blocks.values())
    return (f"{genotype.num_live} of {blocks * len(genotype.operations)} operations live; "
            f"{empty} of {blocks} blocks are their shortcut alone")
