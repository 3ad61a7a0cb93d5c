"""Where the boxes of a block's picture stand and how its connections run, so that none crosses a box.

Levels are columns, operations rows. The rows leave corridors between them that run through the whole block. A
connection that skips levels takes the corridor beside its source's row, on a lane that only its source uses;
between two columns, where there are no boxes, it bends to and from its lane.
"""

from __future__ import annotations

import dataclasses
from typing import Dict, Iterable, List, Tuple

from matplotlib.path import Path

from dso_nas.architecture.topology import INPUT, BlockTopology, Node

Connection = Tuple[Node, Node]
Point = Tuple[float, float]

# Sizes of a block drawn WIDTH inches wide; a smaller one has everything smaller.
WIDTH = 9.6
BAR = 0.28
BOX = (0.98, 0.42)
MIN_GAP = 0.6
MARGIN = 0.09
LANE = 0.09
PORT = 0.08
SHORTCUT = 0.2


def output_node(topology: BlockTopology) -> Node:
    """The block's output as the paper writes it: (M + 1, 0)."""
    return (topology.levels + 1, 0)


def connections(topology: BlockTopology) -> List[Connection]:
    """(source, target) of every lambda in packed order; the output is `output_node`."""
    deeper = [node for node in topology.nodes() if node[0] > 1]
    inner = [(source, node) for node in deeper for source in topology.predecessors(node[0])]
    return inner + [(node, output_node(topology)) for node in topology.nodes()]


def natural_width(topology: BlockTopology) -> float:
    """Width in inches at which a block's boxes have room for their operations' full names."""
    levels = topology.levels
    return max(WIDTH, 2 * BAR + levels * BOX[0] + (levels + 1) * MIN_GAP)


@dataclasses.dataclass(frozen=True)
class Wiring:
    """A block's picture with its upper left corner at (x, y), inches, y pointing down."""

    topology: BlockTopology
    x: float
    y: float
    width: float

    @property
    def scale(self) -> float:
        """Size relative to a block with room for full names."""
        return self.width / natural_width(self.topology)

    @property
    def rise(self) -> float:
        """The scale of heights: small blocks are less flat, to keep their lanes apart."""
        return self.scale**0.75

    @property
    def box(self) -> Point:
        """Width and height of an operation's box."""
        return BOX[0] * self.scale, BOX[1] * self.rise

    @property
    def height(self) -> float:
        """From the first corridor's top to below the shortcut, which runs under the last one."""
        rows = self.topology.num_operations
        return rows * self.box[1] + (rows + 1) * self._corridor + SHORTCUT * self.rise

    @property
    def shortcut(self) -> float:
        """Height of the line from the input straight to the output."""
        return self.y + self.height - SHORTCUT * self.rise / 2

    def left(self, level: int) -> float:
        """Where a level's boxes begin; level 0 is the input's bar, level M + 1 the output's."""
        if level == 0:
            return self.x
        if level > self.topology.levels:
            return self.x + self.width - BAR * self.scale
        return self.x + BAR * self.scale + self._gap + (level - 1) * (self.box[0] + self._gap)

    def right(self, level: int) -> float:
        """Where a level's boxes end."""
        inside = 1 <= level <= self.topology.levels
        return self.left(level) + (self.box[0] if inside else BAR * self.scale)

    def center(self, node: Node) -> float:
        """Height of a box's middle."""
        return self._top(node[1]) + self.box[1] / 2

    def lane(self, source: Node) -> float:
        """Height at which a source's connections pass the levels they skip."""
        middle = self.topology.num_operations // 2
        if source == INPUT:
            return self._top(middle + 1) - self._corridor / 2
        outward = (MARGIN + LANE * (self.topology.levels - 1 - source[0])) * self.rise
        top = self._top(source[1])
        return top - outward if source[1] <= middle else top + self.box[1] + outward

    def ports(self, live: Iterable[Connection]) -> Dict[Connection, float]:
        """The height at which every connection meets its target: apart, and in the order they arrive in."""
        by_target: Dict[Node, List[Connection]] = {}
        for connection in live:
            by_target.setdefault(connection[1], []).append(connection)
        heights: Dict[Connection, float] = {}
        for arriving in by_target.values():
            arriving.sort(key=self._arrival)
            for place, connection in enumerate(arriving):
                heights[connection] = self._port(connection, place, len(arriving))
        return heights

    def route(self, connection: Connection, port: float) -> Path:
        """The line of a connection that ends at height `port`."""
        source, target = connection
        end = (self.left(target[0]), port)
        start = (self.right(source[0]), self.lane(INPUT) if source == INPUT else self.center(source))
        if target[0] == source[0] + 1:
            return _path([start], _bend(start, end))
        entry = (self.left(source[0] + 1), self.lane(source))
        leave = (self.right(target[0] - 1), self.lane(source))
        return _path([start], _bend(start, entry), [leave], _bend(leave, end))

    @property
    def _gap(self) -> float:
        boxes = 2 * BAR * self.scale + self.topology.levels * self.box[0]
        return (self.width - boxes) / (self.topology.levels + 1)

    @property
    def _corridor(self) -> float:
        lanes = max(self.topology.levels - 2, 1)
        return (2 * MARGIN + LANE * lanes) * self.rise

    def _top(self, row: int) -> float:
        return self.y + row * self._corridor + (row - 1) * self.box[1]

    def _arrival(self, connection: Connection) -> float:
        source, target = connection
        beside = source != INPUT and target[0] == source[0] + 1
        return self.center(source) if beside else self.lane(source)

    def _port(self, connection: Connection, place: int, count: int) -> float:
        target = connection[1]
        if target[0] > self.topology.levels:
            return self._arrival(connection)
        apart = min(PORT * self.rise, 0.85 * self.box[1] / count)
        return self.center(target) + (place - (count - 1) / 2) * apart


def _bend(start: Point, end: Point) -> List[Point]:
    """A cubic curve's two control points and end, level at both ends."""
    middle = (start[0] + end[0]) / 2
    return [(middle, start[1]), (middle, end[1]), end]


def _path(*parts: List[Point]) -> Path:
    """Join parts of one point (straight to it) and of three (a curve)."""
    codes = [code for part in parts for code in ([Path.LINETO] if len(part) == 1 else [Path.CURVE4] * 3)]
    return Path([point for part in parts for point in part], [Path.MOVETO] + codes[1:])
