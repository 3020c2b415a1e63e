"""What devices send each other in one run of a module: how much, between whom, and for what.

Counted is what one device receives as the result of a collective, a loop's body as often as it
runs. The compiler may cut one collective into parts that stand in several fusions, so that other
work goes on meanwhile; these share a channel, and are counted once.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Sequence

import numpy as np

from unified_fm.planning import hlo

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)
# Components of an op's name: those of the model's modules, and what JAX puts between them.
_MODULE = re.compile(r"[a-z]\w*(\.[a-z]\w*)?")
_OF_MODULE = re.compile(r"\bjvp\(([a-z]\w*)\)")
_WRAPPERS = re.compile(
    r"while|body|cond|closed_call|checkpoint|rematted_computation|branch_\d+_fun"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """One collective of a program, or several alike.

    Attributes:
        kind: one of `KINDS`.
        bytes: of its result on one device, in one run of the program.
        times: how often it runs.
        group: devices that take part together, as their places in the mesh; one such group.
        origin: the part of the model and of the step that it serves.
        shape: of the result, as it is printed; one of those of several.
    """

    kind: str
    bytes: float
    times: int
    group: tuple[int, ...]
    origin: str
    shape: str

    @property
    def moved(self) -> float:
        """Bytes that a device receives over its links, by the ring algorithm."""
        count = max(len(self.group), 1)
        passes = (count - 1) / count
        if self.kind == "all-reduce":
            return 2 * passes * self.bytes
        if self.kind == "reduce-scatter":
            return (count - 1) * self.bytes
        return self.bytes if self.kind.startswith("collective") else passes * self.bytes


def of(module: hlo.Module, devices: int) -> list[Collective]:
    """The collectives that run, in the order of the text.

    Args:
        module: partitioned over the devices.
        devices: how many there are.
    """
    found: dict[tuple[str, str], Collective] = {}
    for each in hlo.executions(module):
        kind = each.instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        one = _collective(each, kind, devices)
        channel = re.search(r"channel_id=(\d+)", each.instruction.attributes)
        key = (each.body, channel[1] if channel else f"%{each.instruction.name}")
        if key not in found or found[key].bytes < one.bytes:
            found[key] = one
    return list(found.values())


def by_kind(collectives: Iterable[Collective]) -> dict[str, float]:
    """{kind: bytes of the results}."""
    sums: dict[str, float] = collections.defaultdict(float)
    for each in collectives:
        sums[each.kind] += each.bytes
    return dict(sums)


def largest(collectives: Iterable[Collective]) -> list[Collective]:
    """Those of one kind and origin together, the largest first."""
    alike: dict[tuple[str, str, int], list[Collective]] = {}
    for each in collectives:
        alike.setdefault((each.kind, each.origin, len(each.group)), []).append(each)
    joined = [
        dataclasses.replace(
            max(some, key=lambda each: each.bytes),
            bytes=sum(each.bytes for each in some),
            times=sum(each.times for each in some),
        )
        for some in alike.values()
    ]
    return sorted(joined, key=lambda each: -each.bytes)


def origin(op_name: str) -> str:
    """The pass and the part of the model that an operation belongs to, "backward text/self_attn".

    Args:
        op_name: "jit(step)/transpose(jvp(Model.encode))/text/while/body/..."; "" is "the compiler".
    """
    if not op_name:
        return "the compiler"
    # Of products that were joined, "(a/dot:b/dot)", the first speaks for all.
    parts = re.sub(r"\(([\w./]+):[\w./:]*\)", r"\1", op_name).split("/")
    if "rematted_computation" in op_name:
        when = "recomputed"
    elif "transpose(" in op_name:
        when = "backward"
    else:
        when = "forward" if "jvp(" in op_name else "update"
    heads = [match[1] for part in parts if (match := _OF_MODULE.search(part))]
    inner = [re.sub(r"layer_\d+", "layer", part) for part in parts[:-1]]  # the last is the op
    kept = [part for part in inner if _MODULE.fullmatch(part) and not _WRAPPERS.fullmatch(part)]
    where = "/".join([*heads, *kept][:3]) or parts[-1]
    return f"{when} {where}"


def _collective(each: hlo.Execution, kind: str, devices: int) -> Collective:
    instruction = each.instruction
    sizes = [array.bytes for array in instruction.arrays]
    if instruction.opcode.endswith("-start"):  # (operands, results, ...) but for all-reduce
        sizes = _results(each, kind, sizes)
    return Collective(
        kind=kind,
        bytes=sum(sizes) * each.times,
        times=each.times,
        group=group(instruction.attributes, devices),
        origin=origin(instruction.op_name),
        shape=re.sub(r"\{[^}]*\}", "", instruction.shape),
    )


def _results(each: hlo.Execution, kind: str, sizes: Sequence[float]) -> Sequence[float]:
    """The sizes of the results of a collective that is started here and waited for elsewhere."""
    if kind == "all-reduce":
        return sizes
    if kind == "collective-permute":  # (operand, result, two counters)
        return [max(sizes, default=0.0)]
    count = len(each.instruction.operands)
    return sizes[count : 2 * count]


def group(attributes: str, devices: int) -> tuple[int, ...]:
    """The places of the devices of one group, the first, of a collective's attributes.

    XLA prints groups as {{0,1},{2,3}}, as [2,2]<=[4], as [2,2]<=[2,2]T(1,0), or as axes of a mesh;
    {} are all devices. A permutation's first group is the first pair of different devices.
    """
    if pairs := re.search(r"source_target_pairs=\{([{}\d,]*)\}", attributes):
        found = re.findall(r"\{?(\d+),(\d+)", pairs[1])
        return next(((int(a), int(b)) for a, b in found if a != b), (0,))
    if axes := re.search(r"replica_groups=mesh\[([^\]]*)\](.*?)\{([^}]*)\}", attributes):
        return _of_axes(axes[1], axes[2], axes[3], devices)
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", attributes):
        sizes = _numbers(iota[1])
        return tuple(map(int, _iota(iota[2]).reshape(sizes)[0]))
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return _numbers(listed[1])
    return tuple(range(devices))


def _of_axes(mesh: str, order: str, chosen: str, devices: int) -> tuple[int, ...]:
    sizes = {name: int(size) for name, size in re.findall(r"'?([\w.\-]+)'?=(\d+)", mesh)}
    told = re.search(r"device_ids=\((\[[\d,]+\](?:T\([\d,]+\))?)\)", order)
    ids = _iota(told[1]) if told else np.arange(math.prod(sizes.values()) or devices)
    ids = ids.reshape([*sizes.values()])
    named = {name.strip().strip("'") for name in chosen.split(",")}
    return tuple(map(int, ids[tuple(slice(None) if n in named else 0 for n in sizes)].flat))


def _iota(text: str) -> np.ndarray:
    """The numbers from 0 in the order that "[2,8]T(1,0)" says."""
    sizes, _, order = text.partition("T")
    shape = _numbers(sizes.strip("[]"))
    made = np.arange(math.prod(shape)).reshape(shape)
    return (made.transpose(_numbers(order.strip("()"))) if order else made).reshape(-1)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)
