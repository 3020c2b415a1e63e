"""Reads the text of a compiled or partitioned module: what runs, how often, on what shapes.

    for each in hlo.executions(hlo.parse(compiled.as_text())):
        each.instruction.opcode, each.times

The text is what XLA prints on every backend, so one reader serves TPU, GPU and CPU. A loop's body
counts as often as the loop says or as its condition compares with; of a conditional the branch with
the most bytes counts.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

# Bytes of an element. "pred" is a bool; f8 has several kinds, and four bits are packed.
_BYTES = {"pred": 1.0, "bf16": 2.0, "c64": 8.0, "c128": 16.0}
_ARRAY = re.compile(r"\b(pred|bf16|c64|c128|[fsu]\d+)\w*\[([\d,]*)\](\{[^}]*\})?")
_BLOCK = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_NAME = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r" ([\w\-]+)\(")
_OPERAND = re.compile(r"%([\w.\-]+)")
_FAST = re.compile(r"S\([1-9]\d*\)")  # a memory space of its own on the chip


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape.

    Attributes:
        kind: of its elements, "bf16".
        sizes: of its dimensions.
        fast: whether it lies in the chip's own fast memory instead of HBM.
    """

    kind: str
    sizes: tuple[int, ...]
    fast: bool = False

    @property
    def bytes(self) -> float:
        """Without what a tiled layout pads."""
        bits = re.search(r"\d+$", self.kind)
        each = _BYTES.get(self.kind) or (int(bits[0]) / 8 if bits else 1.0)
        return each * math.prod(self.sizes)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `name = shape opcode(operands), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    arguments: str  # the operands as they are printed: the value of a constant
    attributes: str
    root: bool

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of the result."""
        return arrays(self.shape)

    @property
    def bytes(self) -> float:
        """Of the result."""
        return sum(array.bytes for array in self.arrays)

    @property
    def op_name(self) -> str:
        """Where in the program it comes from, "jit(step)/jvp(Model.encode)/text/..."."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    def called(self, *keys: str) -> list[str]:
        """The computations that attributes of these names name."""
        found = []
        for key in keys:
            if match := re.search(rf"\b{key}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.attributes):
                found += re.findall(r"[\w.\-]+", match[1])
        return found


Computation = Mapping[str, Instruction]  # in the order of the text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Module:
    """A program: its computations, and which of them is run."""

    computations: Mapping[str, Computation]
    entry: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """An instruction that runs.

    Attributes:
        instruction: it.
        computation: where it stands, to look its operands up.
        times: how often it runs in one run of the program.
        body: the loop body, branch or entry that it belongs to; a fusion's inside belongs to the
            one that runs the fusion.
        fused: whether it stands inside a fusion, and so reads and writes no memory of its own.
    """

    instruction: Instruction
    computation: Computation
    times: int
    body: str
    fused: bool


def arrays(shape: str) -> tuple[Array, ...]:
    """The arrays of a shape as it is printed, a tuple's one by one."""
    return tuple(
        Array(
            kind=kind,
            sizes=tuple(int(size) for size in sizes.split(",") if size),
            fast=bool(_FAST.search(layout)),
        )
        for kind, sizes, layout in _ARRAY.findall(shape)
    )


def parse(text: str) -> Module:
    """Reads a module.

    Raises:
        ValueError: no entry computation: this is no module.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = None, None
    for line in text.splitlines():
        if line.startswith("}"):
            current = None
        elif current is not None:
            if found := _instruction(line):
                current[found.name] = found
        elif match := _BLOCK.match(line):
            current = computations.setdefault(match[2], {})
            entry = match[2] if match[1] else entry
    if entry is None:
        raise ValueError("the text has no line that starts with ENTRY: it is no module of XLA")
    return Module(computations=computations, entry=entry)


def executions(module: Module) -> Iterator[Execution]:
    """What runs, in the order of the text; see the head of this file."""
    yield from _run(module, module.entry, 1, module.entry, False)


def trips(module: Module, loop: Instruction) -> int:
    """How often the body of a `while` runs; 1 where neither the loop nor its condition says it."""
    if known := re.search(r'"?known_trip_count"?:\{"?n"?:"?(\d+)', loop.attributes):
        return int(known[1])
    (condition,) = loop.called("condition")
    inside = [
        instruction
        for name in _within(module, condition)
        for instruction in module.computations[name].values()
    ]
    compared = {
        match[1]
        for each in inside
        if each.opcode == "compare" and (match := re.search(r"direction=(\w+)", each.attributes))
    }
    limits = [
        int(each.arguments)
        for each in inside
        if each.opcode == "constant" and re.fullmatch(r"\d+", each.arguments)
    ]
    if len(compared) != 1 or len(limits) != 1 or compared & {"EQ", "NE"}:
        return 1
    return limits[0] + ("LE" in compared)


def _run(module: Module, name: str, times: int, body: str, fused: bool) -> Iterator[Execution]:
    computation = module.computations[name]
    for instruction in computation.values():
        yield Execution(
            instruction=instruction, computation=computation, times=times, body=body, fused=fused
        )
        inner = functools.partial(_run, module)
        if instruction.opcode == "while":
            (called,) = instruction.called("body")
            yield from inner(called, times * trips(module, instruction), called, fused)
        elif instruction.opcode == "conditional":
            branches = instruction.called(
                "branch_computations", "true_computation", "false_computation"
            )
            called = max(branches, key=functools.partial(_weight, module))
            yield from inner(called, times, called, fused)
        elif instruction.opcode == "fusion":
            for called in instruction.called("calls"):
                yield from inner(called, times, body, True)
        elif instruction.opcode in ("call", "async-start"):
            for called in instruction.called("to_apply", "calls", "called_computation"):
                yield from inner(called, times, body, fused)


def _weight(module: Module, name: str) -> float:
    return sum(each.times * each.instruction.bytes for each in _run(module, name, 1, name, False))


def _within(module: Module, name: str) -> Iterator[str]:
    yield name
    for instruction in module.computations[name].values():
        for called in instruction.called("calls", "to_apply"):
            yield from _within(module, called)


def _instruction(line: str) -> Instruction | None:
    head = _NAME.match(line)
    if head is None:
        return None
    start = head.end()
    # A tuple's shape holds spaces; its parentheses nest, in its layouts, too.
    end = _closed(line, start) if line[start] == "(" else start
    opcode = _OPCODE.search(line, end)
    if opcode is None:
        return None
    close = _closed(line, opcode.end() - 1)
    arguments = line[opcode.end() : close - 1]
    return Instruction(
        name=head[2],
        shape=line[start : opcode.start()],
        opcode=opcode[1],
        operands=tuple(_OPERAND.findall(arguments)),
        arguments=arguments,
        attributes=line[close:],
        root=bool(head[1]),
    )


def _closed(line: str, start: int) -> int:
    """The index behind the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(line)):
        depth += (line[index] == "(") - (line[index] == ")")
        if depth == 0:
            return index + 1
    return len(line)


def operand(computation: Computation, names: Sequence[str], index: int) -> Instruction | None:
    """The instruction that makes an operand, if it stands in this computation."""
    return computation.get(names[index]) if index < len(names) else None
