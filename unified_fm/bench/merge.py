"""What merging costs: each merge's update on gradients as large as the model."""

from typing import Any

import jax
import jax.numpy as jnp

from unified_fm import plugins, setup
from unified_fm.bench import measured
from unified_fm.config import chosen
from unified_fm.config.settings import Settings
from unified_fm.data import tokenizer as tokenizers

_STEPS = 1000  # of the run that merges with a schedule believe to be in


def report(settings: Settings, times: int) -> list[str]:
    """Measures every merge of the library; returns the lines.

    The groups are the config's; where it has one alone, two of the same size. That of
    `per_task_adam` holds the Adams that the others' chain has behind them.
    """
    ready = setup.prepare(settings, tokenizer=tokenizers.load("bytes"))
    if len(settings.groups) < 2:
        streams = list(settings.streams)
        settings = settings.replace(gradient_groups={"first": streams, "second": streams})
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), ready.params)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    lines = measured.heading("merge")
    lines.append(f"{len(settings.groups)} groups of {size / 1e6:.1f} M parameters")
    for name in plugins.names("optim.merge"):
        try:
            found = measured.measure(*_update(settings, name, params), times)
        except (ValueError, TypeError) as error:  # it needs options that only a config has
            lines.append(measured.refused(f"  {name}", error))
        else:
            lines.append(found.line(f"  {name}", 0.0))
    return lines


def _update(settings: Settings, name: str, params: Any) -> tuple[Any, tuple[Any, ...]]:
    """(one update, its arguments)."""
    needed: dict[str, Any] = {
        "igm": {"shared": ".*"},
        "static": {"weights": dict.fromkeys(settings.groups, 1.0)},
    }
    own = settings.merge["name"] == name
    options = dict(settings.merge) if own else {"name": name, **needed.get(name, {})}
    merge = chosen.merge(settings.replace(merge=options), _STEPS)
    grads = {
        group: jax.tree.map(
            lambda leaf, key=key: jax.random.normal(key, leaf.shape, leaf.dtype), params
        )
        for group, key in zip(
            settings.groups, jax.random.split(jax.random.key(0), len(settings.groups)), strict=True
        )
    }
    losses = dict.fromkeys(settings.groups, jnp.float32(1.0))

    def update(grads, state, params, losses):
        return merge.update(grads, state, params, losses=losses)

    return update, (grads, jax.jit(merge.init)(params), params, losses)
