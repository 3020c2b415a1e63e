"""The parameters of a config as a table: shapes, counts, and the rules each of them got.

Nothing is computed or loaded: shapes only, so neither the data nor the tokenizer nor the teachers
of the config have to be there.
"""

import jax

from unified_fm import rules, setup, sharding
from unified_fm.config import chosen
from unified_fm.config.settings import Settings
from unified_fm.data import tokenizer as tokenizers
from unified_fm.optim import build
from unified_fm.report.table import aligned


def table(config: Settings) -> str:
    """One line per parameter, then the count per top-level module and the total."""
    alone = chosen.without_teachers(config)
    shapes = setup.prepare(alone, tokenizer=tokenizers.load("bytes")).params
    build.check_used(shapes, config.rules.plain())
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
    lines = aligned(rows, right=(2, 3, 4))
    width = max(map(len, totals))
    lines += ["", *(f"{top:<{width}}  {count:>13,}" for top, count in totals.items())]
    lines.append(f"{'total':<{width}}  {sum(totals.values()):>13,}")
    return "\n".join(lines)
