"""Reads the pickles of the CIFAR archives without running them.

A pickle is a program, and Python's own reader can be made to call functions, to fill memory by one opcode, or
to hash for ever. The archives need a thirtieth of it: dictionaries, lists, numbers, strings and NumPy arrays
of bytes. This module interprets that much and refuses the rest. Nothing named in the file is ever imported or
called, and nothing is allocated that the file's own length does not pay for.
"""

from __future__ import annotations

import struct
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import numpy as np

_LONGEST_LINE = 256


class _Global(NamedTuple):
    module: str
    name: str


_ENCODE = _Global("_codecs", "encode")
_DTYPE = _Global("numpy", "dtype")
_NDARRAY = _Global("numpy", "ndarray")
# NumPy 2 moved the function; older files name the first place.
_RECONSTRUCT = (
    _Global("numpy.core.multiarray", "_reconstruct"),
    _Global("numpy._core.multiarray", "_reconstruct"),
)
_KNOWN = frozenset((_ENCODE, _DTYPE, _NDARRAY, *_RECONSTRUCT))


class _Dtype:
    """Stands for numpy.dtype(code); its state (byte order) says nothing about single bytes."""

    def __init__(self, code: Any) -> None:
        self.code = code

    def build(self, _state: Any) -> None:
        """Nothing to take from the state."""


class _Array:
    """Stands for a NumPy array until its state is known."""

    value: np.ndarray

    def build(self, state: Any) -> None:
        """Take the array from NumPy's (version, shape, dtype, Fortran order, content)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("holds an array with an unknown state")
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _Dtype) or dtype.code not in ("u1", b"u1"):
            raise ValueError("holds an array that is not of unsigned bytes")
        if not _is_shape(shape) or not isinstance(content, bytes) or _product(shape) != len(content):
            raise ValueError("holds an array whose content does not fill its shape")
        self.value = np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran is True else "C")


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, tuple) and len(shape) <= 4 and all(type(n) is int and 0 <= n < 2**31 for n in shape)
    )


def _product(shape: Tuple[int, ...]) -> int:
    product = 1
    for n in shape:
        product *= n
    return product


class _Machine:
    """The stack, the memo and the place in the file."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.position = 0
        self.stack: List[Any] = []
        self.marks: List[int] = []
        self.memo: Dict[int, Any] = {}

    def take(self, size: int) -> bytes:
        if size < 0 or size > len(self.content) - self.position:
            raise ValueError("is cut short")
        self.position += size
        return self.content[self.position - size : self.position]

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        end = self.content.find(b"\n", self.position, self.position + _LONGEST_LINE)
        if end < 0:
            raise ValueError("is cut short")
        return self.take(end + 1 - self.position)[:-1].decode("ascii")

    def pop(self) -> Any:
        if not self.stack:
            raise ValueError("takes from an empty stack")
        return self.stack.pop()

    def pop_to_mark(self) -> List[Any]:
        if not self.marks:
            raise ValueError("lacks a mark")
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def top(self, kind: Any) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise ValueError("puts a value into something that takes none")
        return self.stack[-1]


def _extend(machine: _Machine, items: List[Any]) -> None:
    machine.top(list).extend(items)


def _set_items(machine: _Machine, items: List[Any]) -> None:
    target = machine.top(dict)
    keys = items[::2]
    # Any other key could take for ever to hash.
    if len(items) % 2 or not all(isinstance(key, (str, bytes)) for key in keys):
        raise ValueError("has a dictionary key that is no text")
    target.update(zip(keys, items[1::2]))


def _pair(machine: _Machine) -> List[Any]:
    value = machine.pop()
    return [machine.pop(), value]


def _push_global(machine: _Machine, module: Any, name: Any) -> None:
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("asks for something that has no name")
    found = _Global(module, name)
    if found not in _KNOWN:
        raise ValueError(f"asks for {module[:40]!a}.{name[:40]!a}, which no image set needs: it was not run")
    machine.stack.append(found)


def _global_by_lines(machine: _Machine) -> None:
    module = machine.line()
    _push_global(machine, module, machine.line())


def _reduce(machine: _Machine) -> None:
    function, arguments = _pair(machine)
    if not isinstance(arguments, tuple) or not arguments:
        raise ValueError("calls something without arguments")
    if function in _RECONSTRUCT:
        machine.stack.append(_Array())
    elif function == _DTYPE:
        machine.stack.append(_Dtype(arguments[0]))
    elif function == _ENCODE and isinstance(arguments[0], str):
        machine.stack.append(arguments[0].encode("latin-1"))
    else:
        raise ValueError("calls something that no image set needs: it was not run")


def _build(machine: _Machine) -> None:
    state = machine.pop()
    machine.top((_Array, _Dtype)).build(state)


def _remember(machine: _Machine, key: int) -> None:
    machine.memo[key] = machine.top(object)


def _recall(machine: _Machine, key: int) -> None:
    if key not in machine.memo:
        raise ValueError("recalls a value that it never stored")
    machine.stack.append(machine.memo[key])


def _tuple_of(machine: _Machine, size: int) -> None:
    if len(machine.stack) < size:
        raise ValueError("takes from an empty stack")
    machine.stack[-size:] = [tuple(machine.stack[-size:])]


def _pusher(value: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(value(machine))


_OPCODES: Dict[bytes, Callable[[_Machine], object]] = {
    b"\x80": lambda m: m.take(1),
    b"\x95": lambda m: m.take(8),
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"}": _pusher(lambda m: {}),
    b"]": _pusher(lambda m: []),
    b")": _pusher(lambda m: ()),
    b"N": _pusher(lambda m: None),
    b"\x88": _pusher(lambda m: True),
    b"\x89": _pusher(lambda m: False),
    b"K": _pusher(lambda m: m.unsigned(1)),
    b"M": _pusher(lambda m: m.unsigned(2)),
    b"J": _pusher(lambda m: struct.unpack("<i", m.take(4))[0]),
    b"\x8a": _pusher(lambda m: int.from_bytes(m.take(m.unsigned(1)), "little", signed=True)),
    b"U": _pusher(lambda m: m.take(m.unsigned(1))),
    b"T": _pusher(lambda m: m.take(m.unsigned(4))),
    b"C": _pusher(lambda m: m.take(m.unsigned(1))),
    b"B": _pusher(lambda m: m.take(m.unsigned(4))),
    b"X": _pusher(lambda m: m.take(m.unsigned(4)).decode("utf-8")),
    b"\x8c": _pusher(lambda m: m.take(m.unsigned(1)).decode("utf-8")),
    b"q": lambda m: _remember(m, m.unsigned(1)),
    b"r": lambda m: _remember(m, m.unsigned(4)),
    b"\x94": lambda m: _remember(m, len(m.memo)),
    b"h": lambda m: _recall(m, m.unsigned(1)),
    b"j": lambda m: _recall(m, m.unsigned(4)),
    b"a": lambda m: _extend(m, [m.pop()]),
    b"e": lambda m: _extend(m, m.pop_to_mark()),
    b"s": lambda m: _set_items(m, _pair(m)),
    b"u": lambda m: _set_items(m, m.pop_to_mark()),
    b"t": _pusher(lambda m: tuple(m.pop_to_mark())),
    b"\x85": lambda m: _tuple_of(m, 1),
    b"\x86": lambda m: _tuple_of(m, 2),
    b"\x87": lambda m: _tuple_of(m, 3),
    b"c": _global_by_lines,
    b"\x93": lambda m: _push_global(m, *_pair(m)),
    b"R": _reduce,
    b"b": _build,
}


def read_dictionary(content: bytes) -> Dict[str, Any]:
    """The dictionary in a pickle of protocol 2 to 4, as CIFAR's authors or a later Python wrote it.

    Args:
        content: the whole file.

    Returns:
        The entries under text keys. Text of Python 2 stays bytes; NumPy arrays of bytes are read-only uint8
        arrays.

    Raises:
        ValueError: it is no such pickle, is damaged, or asks for more than data. The message goes on from the
            file's name ("is cut short").
    """
    machine = _Machine(content)
    while True:
        code = machine.take(1)
        if code == b".":
            break
        if code not in _OPCODES:
            raise ValueError("is no pickle of an image set")
        _OPCODES[code](machine)
    result = machine.pop()
    if not isinstance(result, dict):
        raise ValueError("holds no dictionary")
    return {_text(key): getattr(value, "value", value) for key, value in result.items()}


def _text(key: Any) -> str:
    return key if isinstance(key, str) else key.decode("latin-1")
