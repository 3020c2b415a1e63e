"""Attention alone, forward and backward: every implementation, at the config's shapes."""

from typing import Any

import jax
import jax.numpy as jnp

from unified_fm.bench import layer, machine, measured
from unified_fm.config.settings import Settings
from unified_fm.models.attention import attend
from unified_fm.models.config import CHOICES

IMPLEMENTATIONS = [name for name in CHOICES["attention"] if name != "auto"]  # "auto" is one of them


def report(settings: Settings, times: int) -> list[str]:
    """Measures attention of texts, of images with and without a bias, and of texts at images.

    Nothing is dropped. Returns the lines; what cannot run here says why.
    """
    rate = machine.product_rate(settings.model.get("dtype", "float32"))
    lines = measured.heading("attention")
    for name, shape in layer.shapes(settings).items():
        seen = shape.seen or shape.tokens
        config = shape.config
        lines.append(f"{name}: {shape.rows} x {shape.tokens} at {seen}, {config.heads} heads")
        for bias in (True, False) if shape.grid else (False,):
            for implementation in IMPLEMENTATIONS:
                what = f"  {implementation}{' with bias' if bias else ''}"
                try:
                    found = measured.measure(*_attention(shape, seen, bias, implementation), times)
                except (ValueError, NotImplementedError, RuntimeError) as error:
                    lines.append(measured.refused(what, error))
                else:
                    lines.append(found.line(what, rate))
    return lines


def _attention(shape: layer.Shape, seen: int, bias: bool, implementation: str) -> tuple[Any, Any]:
    """(gradients of a sum over attention, its arguments)."""
    config = shape.config
    keys = jax.random.split(jax.random.key(0), 5)
    dtype, heads, width = config.compute_dtype, config.heads, config.head_width
    query, weights = (
        jax.random.normal(key, (shape.rows, shape.tokens, heads, width), dtype) for key in keys[:2]
    )
    key, value = (
        jax.random.normal(key, (shape.rows, seen, heads, width), dtype) for key in keys[2:4]
    )
    # As the layers have it: texts that look at themselves are padded, and say how far.
    padded = not shape.grid and not shape.seen
    mask = jnp.ones((shape.rows, 1, 1, seen), bool) if padded else None
    lengths = jnp.full(shape.rows, seen, jnp.int32) if padded else None
    biases = jax.random.normal(keys[4], (heads, shape.tokens, seen)) if bias else None

    def loss(query, key, value, biases):
        told = {"mask": mask, "lengths": lengths, "bias": biases}
        y = attend(query, key, value, implementation=implementation, **told)
        return (y * weights).sum(dtype=jnp.float32)

    wanted = (0, 1, 2, 3) if bias else (0, 1, 2)
    return jax.grad(loss, argnums=wanted), (query, key, value, biases)
