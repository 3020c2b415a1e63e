"""Prints the parameters of a config: shapes, counts, and the rules each of them got.

    python tools/show_params.py --config=configs/xfm_base.py

Nothing is computed or loaded: shapes only, from one made-up batch per stream, so neither the data
nor the tokenizer of the config has to be there. `--config.a.b=v` overrides as in a run.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from unified_fm import assembly, main, rules, sharding, step
from unified_fm.config.settings import Settings, Stream
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
    shapes = parameter_shapes(config)
    values = build.assigned_rules(shapes, config.rules.plain())
    where = rules.assign(shapes, sharding.named_rules(config.rules.sharding))
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


def parameter_shapes(config: Settings) -> Any:
    """The parameter tree of a config as `jax.ShapeDtypeStruct`."""
    small = {}
    for name, entry in config.streams.items():
        kind = _KIND.get(entry.pipeline, "pairs")
        made = entry.replace(source=f"synthetic:{kind}", batch_size=_ROWS, threads=1)
        small[name] = made.replace(images=_IMAGES, packs=1) if entry.images else made
    made = config.replace(tokenizer="bytes", streams=small, teachers={})
    streams = assembly.streams(made, assembly.tokenizer(made.replace(model={})))
    batches = {
        name: _real_size(batch, config.streams[name]) for name, batch in next(streams).items()
    }
    streams.close()
    program = assembly.program(config.replace(teachers={}))
    return jax.eval_shape(lambda b: step.init_params(program, {}, b), batches)


def _real_size(batch: Mapping[str, Any], entry: Stream) -> Any:
    """The shapes of a small batch with the rows of the real one: a loss may have groups of rows."""
    sizes = {_ROWS: entry.batch_size, _IMAGES: entry.images}
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
