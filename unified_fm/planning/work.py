"""What one device computes and moves through its memory in one run of a module.

FLOPs are those of matrix products and convolutions, a multiply and an add as two, recomputation and
padding included: the rest is bound by memory. Bytes are what instructions outside of fusions read
and write, where a slice of an array counts as the slice; arrays in a chip's own fast memory are
free. Both are what the compiled program does, so they need no model of it.
"""

import math
import re
from collections.abc import Mapping

import numpy as np

from unified_fm.planning import hlo

# They move nothing: names for what is there, or what another line counts.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "async-start",
    "async-update",
    "async-done",
    "copy-done",
    "all-gather-done",
    "all-reduce-done",
    "collective-permute-done",
    "reduce-scatter-done",
    "iota",
}
_SLICES = {"dynamic-slice", "gather", "slice"}


def flops(module: hlo.Module) -> float:
    """FLOPs of the products of one device."""
    return sum(
        each.times * _product(each.computation, each.instruction) for each in hlo.executions(module)
    )


def moved(module: hlo.Module) -> float:
    """Bytes that one device reads from its memory and writes to it."""
    insides = {name: _inside(module, name) for name in module.computations}
    total = 0.0
    for each in hlo.executions(module):
        if not each.fused and each.instruction.opcode not in _FREE:
            total += each.times * _traffic(each.computation, each.instruction, insides)
    return total


def _product(computation: hlo.Computation, instruction: hlo.Instruction) -> float:
    if instruction.opcode == "dot":
        return _dot(
            computation, instruction, _dimensions(instruction.attributes, "lhs_contracting_dims")
        )
    if instruction.opcode == "convolution":
        return _convolution(computation, instruction)
    if instruction.opcode == "custom-call":
        return _library(computation, instruction)
    return 0.0


def _dot(
    computation: hlo.Computation, instruction: hlo.Instruction, contracted: tuple[int, ...]
) -> float:
    left = hlo.operand(computation, instruction.operands, 0)
    if left is None or not left.arrays or not instruction.arrays:
        return 0.0
    inner = math.prod(left.arrays[0].sizes[i] for i in contracted)
    return 2.0 * math.prod(instruction.arrays[0].sizes) * inner


def _library(computation: hlo.Computation, instruction: hlo.Instruction) -> float:
    """A matrix product or fused attention that a library of the backend makes."""
    target = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    name = target[1] if target else ""
    listed = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', instruction.attributes)
    if "matmul" in name or "gemm" in name:
        if listed:
            contracted = tuple(int(n) for n in re.findall(r"\d+", listed[1]))
        else:  # oneDNN: the last dimension of the left side
            left = hlo.operand(computation, instruction.operands, 0)
            contracted = (len(left.arrays[0].sizes) - 1,) if left and left.arrays else ()
        return _dot(computation, instruction, contracted)
    if "fmha" in name or "flash" in name:
        return _attention(computation, instruction, backward="ackward" in name)
    return 0.0


def _attention(
    computation: hlo.Computation, instruction: hlo.Instruction, *, backward: bool
) -> float:
    """Of queries [B Q H D] and keys [B K H D]: two products forwards, five backwards."""
    query, key = (hlo.operand(computation, instruction.operands, i) for i in (0, 1))
    if query is None or key is None or len(query.arrays[0].sizes) != 4:
        return 0.0
    rows, length, heads, width = query.arrays[0].sizes
    return (5 if backward else 2) * 2.0 * rows * length * heads * width * key.arrays[0].sizes[1]


def _convolution(computation: hlo.Computation, instruction: hlo.Instruction) -> float:
    """A TPU's matrix products are convolutions, whose windows may lie in padding mostly."""
    found = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    left, right = (hlo.operand(computation, instruction.operands, i) for i in (0, 1))
    if found is None or left is None or right is None:
        return 0.0
    labels = [
        dict(zip(text, each, strict=True))
        for text, each in zip(
            found.groups(),
            (left.arrays[0].sizes, right.arrays[0].sizes, instruction.arrays[0].sizes),
            strict=True,
        )
    ]
    taken, kernel, given = labels
    window = _window(instruction.attributes, sum(label.isdigit() for label in kernel))
    valid = math.prod(
        _positions(taken[str(i)], kernel[str(i)], given[str(i)], **sizes)
        for i, sizes in enumerate(window)
    )
    groups = re.search(r"batch_group_count=(\d+)", instruction.attributes)
    rows = given["b"] / (int(groups[1]) if groups else 1)
    return 2.0 * valid * rows * given["f"] * kernel["i"]


def _window(attributes: str, spatial: int) -> list[dict[str, int]]:
    found = re.search(r"window=\{([^}]*)\}", attributes)
    told = dict(part.split("=", 1) for part in found[1].split()) if found else {}

    def numbers(key: str, index: int, default: int) -> int:
        return int(told[key].split("x")[index].split("_")[0]) if key in told else default

    return [
        {
            "stride": numbers("stride", i, 1),
            "low": numbers("pad", i, 0),
            "lhs_dilate": numbers("lhs_dilate", i, 1),
            "rhs_dilate": numbers("rhs_dilate", i, 1),
        }
        for i in range(spatial)
    ]


def _positions(
    size: int, kernel: int, out: int, *, stride: int, low: int, lhs_dilate: int, rhs_dilate: int
) -> int:
    """Pairs of an output and a kernel position that meet an element of the input."""
    last = (size - 1) * lhs_dilate
    place = np.add.outer(np.arange(out) * stride, np.arange(kernel) * rhs_dilate - low)
    return int(((place >= 0) & (place <= last) & (place % lhs_dilate == 0)).sum())


def _dimensions(attributes: str, key: str) -> tuple[int, ...]:
    found = re.search(rf"{key}=\{{([\d,]*)\}}", attributes)
    return tuple(int(n) for n in found[1].split(",") if n) if found else ()


def _traffic(
    computation: hlo.Computation,
    instruction: hlo.Instruction,
    insides: Mapping[str, "dict[int, float] | None"],
) -> float:
    """Bytes read and written by an instruction outside of fusions."""
    written = _in_memory(instruction)
    if instruction.opcode in _SLICES:
        return 2 * written
    if instruction.opcode == "dynamic-update-slice":
        changed = hlo.operand(computation, instruction.operands, 1)
        return 2 * (_in_memory(changed) if changed else written)
    parts: dict[int, float] = {}
    if instruction.opcode == "fusion":
        for called in instruction.called("calls"):
            parts = insides.get(called) or {}
    total = parts.get(-1, written)
    if instruction.opcode.endswith("-start"):  # (operand, result, ...): the operands are read below
        total = written / 2
    for index in range(len(instruction.operands)):
        source = hlo.operand(computation, instruction.operands, index)
        if source is not None:
            total += min(parts.get(index, math.inf), _in_memory(source))
    return total


def _in_memory(instruction: hlo.Instruction) -> float:
    return sum(array.bytes for array in instruction.arrays if not array.fast)


def _inside(module: hlo.Module, name: str) -> dict[int, float] | None:
    """{parameter: bytes that a fusion reads of it}, where it reads slices; -1: what it writes."""
    computation = module.computations[name]
    users: dict[str, list[hlo.Instruction]] = {}
    for each in computation.values():
        for source in each.operands:
            users.setdefault(source, []).append(each)
    found: dict[int, float] = {}
    for each in computation.values():
        if each.opcode == "parameter":
            using = users.get(each.name, [])
            if using and all(_reads_part(each.name, user) for user in using):
                parts = [user.bytes for user in using if user.opcode in _SLICES]
                found[int(each.arguments)] = sum(parts)
        if each.root and each.opcode == "dynamic-update-slice":
            changed = computation.get(each.operands[1])
            found[-1] = changed.bytes if changed else each.bytes
    return found or None


def _reads_part(name: str, user: hlo.Instruction) -> bool:
    """Whether a user of a fusion's parameter reads only a part of it, or writes into it."""
    first = user.operands[0] == name and name not in user.operands[1:]
    return first and user.opcode in {*_SLICES, "dynamic-update-slice"}
