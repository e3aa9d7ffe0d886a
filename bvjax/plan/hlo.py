"""The collectives of a compiled program, and its largest array, read from its text."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterator

import numpy as np
from jax.sharding import Mesh

_KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
_OPERATION = re.compile(rf"= (.+?) ({_KINDS})(-start)?\(")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]")
_NAME = re.compile(r'op_name="([^"]*)"')
_CALL = re.compile(r"\b(body|calls|to_apply|(?:true|false)_computation)=%?([\w.\-]+)")
_CALLS = re.compile(r"\b(?:branch|called)_computations=\{([^}]*)\}")
_NAMED_GROUPS = re.compile(
    r"replica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_NUMBER = re.compile(r"^\s+%?([\w.\-]+) = s32\[\]\S* constant\((\d+)\)")
_BELOW = re.compile(
    r"^\s+ROOT .*? compare\((?:\S+ )?%?[\w.\-]+, (?:\S+ )?%?([\w.\-]+)\), direction=LT"
)
_ROUNDS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_INSIDE = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")  # bodies of fusions: none of it is stored
_BEGIN = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_RESULT = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\(")
_NO_ARRAY = {
    "parameter",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "optimization-barrier",
}
_BYTES = {"pred": 1, "bf16": 2, "f16": 2}


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of collective of a program."""

    kind: str
    axes: tuple[str, ...]  # of the mesh, over which it goes
    name: str  # where in the model, of the first of them
    bytes: int  # that one device ends up with, each time
    times: int  # that it happens in one run of the program

    @property
    def received(self) -> int:
        """Bytes per device and run, as a ring would move them."""
        return self.bytes * self.times


def collectives(text: str, mesh: Mesh) -> list[Collective]:
    """All collectives of a program, those of one kind, place and size together, the largest first.

    Args:
      text: `compiled.as_text()`.
      mesh: whose axes the groups of devices are matched with.
    """
    counts: dict[tuple, int] = {}
    times = runs(text)
    for _, computation, line in _lines(text):
        match = _OPERATION.search(line)
        if not match:
            continue
        shapes, kind, started = match.groups()
        sizes = [_size(*shape) for shape in _SHAPE.findall(shapes)]
        # A start names its inputs as well as its outputs, and a permutation two counters too.
        size = max(sizes) if started or kind == "collective-permute" else sum(sizes)
        name = _NAME.search(line)
        name = name.group(1) if name else ""
        key = kind, axes_of(_groups(line), mesh), name, size
        counts[key] = counts.get(key, 0) + times[computation]
    result = [Collective(*key, count) for key, count in counts.items()]
    return sorted(result, key=lambda c: -c.received)


def runs(text: str) -> dict[str, int]:
    """Counts the runs of each computation of a program: loops are not unrolled in its text.

    Compilers for CPUs and GPUs write how often a loop goes round.  Those for TPUs do not: there it
    is the number that the loop's condition compares its counter with, as `scan` counts from 0.
    Of a loop that runs until something happens one round is taken; all branches of a condition
    count.
    """
    entry, calls, limits = "", {}, _limits(text)
    for first, computation, line in _lines(text):
        entry = computation if first else entry
        rounds = 1
        if " while(" in line:
            known, condition = _ROUNDS.search(line), _CONDITION.search(line)
            rounds = int(known.group(1)) if known else limits.get(condition.group(1), 1)
        called = [name for _, name in _CALL.findall(line)]
        for listed in _CALLS.findall(line):
            called += [name.strip().lstrip("%") for name in listed.split(",")]
        for name in called:
            calls.setdefault(name, []).append((computation, rounds))

    @functools.cache
    def of(name: str) -> int:
        return (name == entry) + sum(
            of(computation) * rounds for computation, rounds in calls.get(name, ())
        )

    return {computation: of(computation) for _, computation, _ in _lines(text)}


def _limits(text: str) -> dict[str, int]:
    """{computation: number} of those that are a comparison `counter < number`."""
    numbers, comparisons = {}, {}
    for _, computation, line in _lines(text):
        constant = _NUMBER.match(line)
        if constant:
            numbers[computation, constant.group(1)] = int(constant.group(2))
        compared = _BELOW.match(line)
        if compared:
            comparisons[computation] = computation, compared.group(1)
    return {computation: numbers[key] for computation, key in comparisons.items() if key in numbers}


@dataclasses.dataclass(frozen=True)
class ProgramArray:
    """An array that a program makes."""

    bytes: int
    shape: str
    name: str  # where in the model


def largest(text: str) -> ProgramArray:
    """The largest array that a program makes for itself.

    What has the shape of an argument is taken for that argument, changed in place: a copy of one
    would show in the size of all temporaries.
    """
    inside = set(_INSIDE.findall(text))
    arguments = [
        shapes
        for entry, _, shapes, operation, _ in _operations(text)
        if entry and operation == "parameter"
    ]
    argument_shapes = {shape for shapes in arguments for shape in _SHAPE.findall(shapes)}
    result = ProgramArray(0, "", "")
    for _, computation, shapes, operation, line in _operations(text):
        if computation in inside or operation in _NO_ARRAY or operation.endswith("-done"):
            continue
        for dtype, dims in _SHAPE.findall(shapes):
            if (dtype, dims) not in argument_shapes and _size(dtype, dims) > result.bytes:
                name = _NAME.search(line)
                name = name.group(1) if name else operation
                result = ProgramArray(_size(dtype, dims), f"{dtype}[{dims}]", name)
    return result


def _operations(text: str) -> Iterator[tuple[bool, str, str, str, str]]:
    """(in the entry, computation, shapes, operation, line) of each line that is one."""
    for entry, computation, line in _lines(text):
        match = _RESULT.match(line)
        if match:
            yield entry, computation, *match.groups(), line


def _lines(text: str) -> Iterator[tuple[bool, str, str]]:
    """(in the entry, computation, line) of each line inside a computation."""
    entry, computation = False, ""
    for line in text.splitlines():
        begin = _BEGIN.match(line)
        if begin:
            entry, computation = bool(begin.group(1)), begin.group(2)
        elif computation:
            yield entry, computation, line


def _size(dtype: str, dims: str) -> int:
    width = _BYTES.get(dtype) or max(int(re.sub(r"^\D+", "", dtype).split("e")[0]) // 8, 1)
    return width * math.prod(int(n) for n in dims.split(",") if n)


def _groups(line: str) -> list[list[int]]:
    """Groups of devices that communicate with each other, by position in the mesh."""
    listed = re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", line)
    if listed:
        return [
            [int(n) for n in g.split(",")] for g in re.findall(r"\{([\d,]+)\}", listed.group(1))
        ]
    counted = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    if counted:
        shape = [int(n) for n in counted.group(1).split(",")]
        return _numbered(*counted.groups()[1:]).reshape(-1, shape[-1]).tolist()
    named = _NAMED_GROUPS.search(line)
    if named:
        return _along(*named.groups())
    pairs = re.search(r"source_target_pairs=\{(\{[\d,{}]*\})\}", line)
    if pairs:
        return [[int(n) for n in g.split(",")] for g in re.findall(r"\{([\d,]+)\}", pairs.group(1))]
    return []


def _numbered(source: str, order: str | None) -> np.ndarray:
    """Devices 0, 1, ... in the shape `source`, its axes in another order."""
    sizes = [int(n) for n in source.split(",")]
    grid = np.arange(math.prod(sizes)).reshape(sizes)
    return grid.transpose([int(n) for n in order.split(",")]) if order else grid


def _along(mesh: str, source: str | None, order: str | None, chosen: str) -> list[list[int]]:
    """Groups over some axes of a mesh of the compiler's own, `'a'=2,'b'=4`, or parts of them.

    A part is written `'b':(2)2`: of what is left of b after a factor of 2, the first factor of 2.
    """
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    picked = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen)
    shape, group_dims = [], []
    for axis, size in sizes.items():
        split = 1
        for name, before, part in sorted(picked, key=lambda each: int(each[1] or 1)):
            if name == axis:
                before, part = int(before or 1), int(part or size)
                shape += [before // split, part]
                group_dims.append(len(shape) - 1)
                split = before * part
        shape.append(size // split)
    grid = np.arange(math.prod(shape)) if source is None else _numbered(source, order)
    grid = grid.reshape(shape)
    other_dims = [i for i in range(grid.ndim) if i not in group_dims]
    group_size = math.prod(shape[i] for i in group_dims)
    return grid.transpose(other_dims + group_dims).reshape(-1, group_size).tolist()


def axes_of(groups: list[list[int]], mesh: Mesh) -> tuple[str, ...]:
    """The fewest mesh axes that span all groups."""
    names = [name for name in mesh.axis_names if mesh.shape[name] > 1]
    positions = np.arange(mesh.size).reshape([mesh.shape[name] for name in mesh.axis_names])
    for count in range(len(names) + 1):
        for axes in itertools.combinations(names, count):
            group_dims = [mesh.axis_names.index(name) for name in axes]
            other_dims = [i for i in range(positions.ndim) if i not in group_dims]
            lines = positions.transpose(other_dims + group_dims).reshape(
                -1, math.prod(positions.shape[i] for i in group_dims)
            )
            owner = {device: row for row, line in enumerate(lines.tolist()) for device in line}
            if groups and all(len({owner[d] for d in group}) == 1 for group in groups):
                return axes
    return tuple(names)  # no groups are named: all devices
