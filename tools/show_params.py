"""Prints the parameters of a config: shapes, counts, and the rules each of them got.

    python tools/show_params.py --config=configs/xfm_base.py

Nothing is computed or loaded: shapes only, from one made-up batch per stream, so neither the data
nor the tokenizer of the config has to be there, nor its teachers: the model itself stands for them,
since what a student is compared with has the shapes of its own answers. `--config.a.b=v` overrides
as in a run.
"""

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from unified_fm import assembly, main, rules, sharding, step
from unified_fm.models import targets
from unified_fm.optim import build

_ROWS, _IMAGES = 4, 2  # of the made-up batches; different, to tell their axes apart
_KIND = {"text": "text", "image": "image", "classify": "image", "regions": "regions"}


def show(argv: Sequence[str]) -> str:
    """Makes the table.

    Args:
        argv: the command line, the program's name first.

    Returns:
        One line per parameter, then the count per top-level module and the total.

    Raises:
        main.Refused: the config cannot work.
    """
    _, config = main.parse([*argv, "--workdir=none"])
    try:
        shapes = parameter_shapes(config)
    except ValueError as error:
        raise main.Refused(str(error)) from error
    values = build.assigned_rules(shapes, config["rules"])
    where = rules.assign(shapes, sharding.named_rules(config["rules"]["sharding"]))
    rows = [("parameter", "shape", "count", "lr", "decay", "frozen", "sharding")]
    totals: dict[str, int] = {}
    trees = (values["lr_scale"], values["weight_decay"], values["frozen"], where)
    for (name, leaf), *got in zip(
        rules.named_leaves(shapes), *map(jax.tree.leaves, trees), strict=True
    ):
        rate, decay, frozen, split = got
        shape = " ".join(map(str, leaf.shape)) or "scalar"
        frozen = "frozen" if frozen else "-"
        rows.append((name, shape, f"{leaf.size:,}", f"{rate:g}", f"{decay:g}", frozen, split))
        top = name.split("/")[0]
        totals[top] = totals.get(top, 0) + leaf.size
    lines = _table(rows)
    width = max(map(len, totals))
    lines += ["", *(f"{top:<{width}}  {count:>13,}" for top, count in totals.items())]
    lines.append(f"{'total':<{width}}  {sum(totals.values()):>13,}")
    return "\n".join(lines)


def parameter_shapes(config: Mapping[str, Any]) -> Any:
    """The parameter tree of a config as `jax.ShapeDtypeStruct`."""
    small = dict(config, tokenizer="bytes", streams={}, teachers={})
    for name, entry in config["streams"].items():
        kind = _KIND.get(entry["pipeline"], "pairs")
        made = dict(entry, source=f"synthetic:{kind}", batch_size=_ROWS, threads=1)
        for key, size in (("images", _IMAGES), ("packs", 1)):
            if key in entry:
                made[key] = size
        small["streams"][name] = made
    streams = assembly.streams(small, assembly.tokenizer(dict(small, model={})))
    batches = {
        name: _real_size(batch, config["streams"][name]) for name, batch in next(streams).items()
    }
    streams.close()
    program = assembly.program(dict(config, teachers={}))
    teach = functools.partial(_taught, program.model, config["teachers"])
    program = dataclasses.replace(program, teachers=teach)
    return jax.eval_shape(lambda b: step.init_params(program, {}, b), batches)


def _taught(model: nn.Module, teachers: Mapping[str, Any], _: Any, batches: Any) -> dict[str, Any]:
    """The batches with the targets of every teacher, in the shapes of the model's own answers."""

    def say(net, batch):
        views = net(batch)
        of_images = getattr(net, "classes", None) is not None
        return targets.text_targets(net, views, batch) | (
            targets.image_targets(net, views) if of_images else {}
        )

    batches = dict(batches)
    for name, entry in teachers.items():
        for stream in entry["streams"]:
            batch = dict(batches[stream])
            said, _ = nn.init_with_output(say, model)(jax.random.key(0), batch)
            batches[stream] = {**batch, "teacher": {**batch.get("teacher", {}), name: said}}
    return batches


def _real_size(batch: Mapping[str, Any], entry: Mapping[str, Any]) -> Any:
    """The shapes of a small batch with the rows of the real one: a loss may have groups of rows."""
    sizes = {_ROWS: entry["batch_size"], _IMAGES: entry.get("images")}
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((sizes[len(x)], *x.shape[1:]), x.dtype), batch
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = (False, False, True, True, True, False, False)
    return [
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    ]


if __name__ == "__main__":
    try:
        print(show(sys.argv))
    except main.Refused as refusal:
        sys.exit(f"refused: {refusal}")
