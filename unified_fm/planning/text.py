"""A plan as lines for people, as JSON, and as a row of a table of plans."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from unified_fm.planning import traffic
from unified_fm.planning.plan import Made, Plan, Refusal, rows_in_all
from unified_fm.planning.roofline import Roofline
from unified_fm.planning.traffic import Collective
from unified_fm.report.table import aligned

_COMPILERS = {
    "tpu": "libtpu, the TPU's own compiler",
    "gpu": "XLA's GPU compiler, without a GPU",
    "cpu": "XLA's CPU compiler on simulated devices",
}
_HEAD = (
    "topology",
    "config",
    "mesh",
    "rows a chip",
    "remat",
    "state",
    "temporary",
    "of HBM",
    "received",
    "computed",
    "step at least",
    "days at least",
    "refused before",
)

_LESS = """None of these fits. A step needs less memory
  with --remat=dots or --remat=full, which keep fewer activations and compute them again,
  with --config.mesh.fsdp=N, which splits parameters and optimizer over N devices,
"""
_IN_PARTS = "  with {changes}, which makes the batch in {count} parts{smaller},\n"
_SMALLER = " (negatives come from\n  fewer rows then)"
_MORE = "  or on more devices."


def lines(made: Made, largest: int = 12) -> str:
    """What `unified-fm plan` prints."""
    parts = [refusal(each) for each in made.refused]
    if made.plan is not None:
        parts.append(plan(made.plan, largest, _scale(made)))
    elif made.refused:
        parts.append(_LESS + _in_parts(made.in_parts) + _MORE)
    return "\n\n".join(parts)


def _in_parts(changes: Mapping[str, int]) -> str:
    if not changes:
        return ""
    told = " ".join(f"--config.{key}={number}" for key, number in changes.items())
    smaller = _SMALLER if len(changes) > 1 else ""
    return _IN_PARTS.format(changes=told, count=changes["accumulate"], smaller=smaller)


def refusal(refused: Refusal) -> str:
    """What does not fit, in the compiler's own words as far as they are about the sum."""
    words = [line for line in refused.text.splitlines() if line.strip()]
    shown = "\n".join(f"    {line}" for line in words[:12])
    return f"does not fit: {_rows(refused.rows)} on each device\n{shown}"


def plan(made: Plan, largest: int = 12, scale: int = 1) -> str:
    """One plan, its largest collectives with it.

    Args:
        made: it.
        largest: how many collectives.
        scale: steps of its batch that stand for one of the configured batch.
    """
    return "\n".join([*_devices(made), *_memory(made), *_sent(made, largest), *_time(made, scale)])


def record(config: str, remat: str, made: Made) -> dict[str, Any]:
    """A plan as JSON, which `read` takes; collectives of one kind and origin are joined."""
    kept = made.plan
    if kept is not None:
        kept = dataclasses.replace(kept, collectives=traffic.largest(kept.collectives))
    return {
        "config": config,
        "remat": remat,
        "topology": made.topology,
        "refused": [dataclasses.asdict(each) for each in made.refused],
        "plan": None if kept is None else dataclasses.asdict(kept),
        "in_parts": made.in_parts,
    }


def read(text: str) -> tuple[str, str, Made]:
    """(config, remat, plan) of the JSON of `record`."""
    told = json.loads(text)
    kept = told["plan"]
    if kept is not None:
        roofline = Roofline(**kept["roofline"])
        sent = [Collective(**each) for each in kept["collectives"]]
        kept = Plan(**{**kept, "roofline": roofline, "collectives": sent})
    refused = [Refusal(**each) for each in told["refused"]]
    # Plans that are older lack the last.
    in_parts = told.get("in_parts", {})
    made = Made(topology=told["topology"], plan=kept, refused=refused, in_parts=in_parts)
    return told["config"], told["remat"], made


def table(records: Sequence[str]) -> str:
    """A table in Markdown of plans, each the JSON of `record`."""
    rows = [row(*read(text)) for text in records]
    written = [_HEAD, ("---",) * len(_HEAD), *rows]
    return "\n".join(f"| {' | '.join(each)} |" for each in written)


def row(config: str, remat: str, made: Made) -> tuple[str, ...]:
    """The cells of one plan, in the order of the table's head."""
    refused = "; ".join(_rows(each.rows) for each in made.refused) or "-"
    found = made.plan
    if found is None:
        cells = {"topology": made.topology, "config": config, "remat": remat}
        return (*(cells.get(name, "-") for name in _HEAD[:-1]), refused)
    days = found.days(found.roofline.least * _scale(made))
    state = found.params + found.optimizer + found.average
    return (
        found.topology + ("" if found.compiler != "cpu" else " (CPU compiler)"),
        config,
        _mesh(found.mesh),
        _rows(found.rows),
        remat,
        _size(state),
        _size(found.temporaries),
        f"{found.total / found.memory:.0%}" if math.isfinite(found.memory) else "-",
        _size(sum(each.bytes for each in found.collectives)),
        _size(found.flops, "FLOP"),
        f"{found.roofline.least * 1e3:.0f} ms ({found.roofline.bound})",
        "-" if days is None else f"{days:.2f}",
        refused,
    )


def _scale(made: Made) -> int:
    """How many steps of the plan's batch stand for one of the configured batch."""
    if made.plan is None or not made.refused:
        return 1
    return round(rows_in_all(made.refused[0].rows) / rows_in_all(made.plan.rows))


def _devices(made: Plan) -> list[str]:
    devices = math.prod(made.mesh.values())
    return [
        f"topology      {made.topology}, {devices} devices, {_mesh(made.mesh)}",
        f"compiled by   {_COMPILERS[made.compiler]}, in {made.seconds:.0f} s with at most "
        f"{made.peak / 1e9:.1f} GB of this machine's memory",
        f"rows          {_rows(made.rows)} on each device",
    ]


def _memory(made: Plan) -> list[str]:
    parts = [
        ("parameters", made.params, f"{made.parameters:,} parameters"),
        ("optimizer", made.optimizer, ""),
        ("average", made.average, ""),
        ("teachers", made.teachers, ""),
        ("batch", made.batch, ""),
        ("activations", made.temporaries, "and all else that is temporary"),
        ("code", made.code, ""),
        ("together", made.total, _share(made)),
    ]
    shown = [(f"  {name}", _size(size), more) for name, size, more in parts if size]
    inexact = (
        ""
        if made.compiler != "cpu" or not math.isfinite(made.memory)
        else (" (of the CPU's program: bfloat16 is widened there, so this is too much)")
    )
    return ["", f"memory of a device{inexact}", *aligned(shown, right=(1,))]


def _share(made: Plan) -> str:
    if not math.isfinite(made.memory):
        return ""
    return f"{made.total / made.memory:.0%} of the chip's {_size(made.memory)}"


def _sent(made: Plan, largest: int) -> list[str]:
    kinds = sorted(traffic.by_kind(made.collectives).items(), key=lambda pair: -pair[1])
    told = ", ".join(f"{kind} {_size(size)}" for kind, size in kinds) or "nothing"
    joined = traffic.largest(made.collectives)
    shown = [
        (
            f"  {_size(each.bytes)}",
            f"x{each.times}",
            each.kind,
            f"of {len(each.group)}",
            each.origin,
        )
        for each in joined[:largest]
    ]
    head = ["", f"received by a device in a step: {told}"]
    return head + (aligned(shown, right=(0, 1)) if shown else [])


def _time(made: Plan, scale: int) -> list[str]:
    wasted = ", ".join(f"{name} {share:.0%}" for name, share in made.waste.items() if share > 0.005)
    lines = [
        "",
        f"FLOPs         {_size(made.flops, 'FLOP')} on a device; the model asks for "
        f"{_size(made.padded, 'FLOP')}, without padding {_size(made.necessary, 'FLOP')}",
        f"padding       {_wasted(made):.0%} of the model's"
        + (f" (of a stream's: {wasted}; texts as long as published)" if wasted else ""),
    ]
    roof = made.roofline
    if not roof.least:
        return [*lines, "step          simulated devices have no speed"]
    lines += [
        f"roofline      compute {_ms(roof.compute)}, HBM {_ms(roof.memory)} "
        f"({_size(made.moved)}), interconnect {_ms(roof.links)}",
        f"step          at least {_ms(roof.least)} (bound by {roof.bound}), "
        f"{_ms(roof.most)} if nothing overlaps; at peak rates, which no program reaches",
    ]
    least, most = made.days(scale * roof.least), made.days(scale * roof.most)
    if made.steps is None or least is None or most is None:
        return [*lines, "run           counts epochs of data that is not here"]
    same = " (as many rows as configured)" if scale > 1 else ""
    steps = f"{made.steps * scale:,} steps{same}"
    return [*lines, f"run           {steps}: at least {least:.2f} to {most:.2f} days"]


def _wasted(made: Plan) -> float:
    return 1 - made.necessary / made.padded if made.padded else 0.0


def _rows(rows: Mapping[str, Sequence[float]]) -> str:
    return ", ".join(
        f"{name} {count:g}" + (f" ({images:g} images)" if images else "")
        for name, (count, images) in rows.items()
    )


def _mesh(mesh: Mapping[str, int]) -> str:
    return " ".join(f"{axis}={size}" for axis, size in mesh.items())


def _size(count: float, unit: str = "B") -> str:
    """A number with three or four digits and a prefix, "12.35 GB"."""
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if count >= 10**power:
            return f"{count / 10**power:.4g} {prefix}{unit}"
    return f"{count:.4g} {unit}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"
