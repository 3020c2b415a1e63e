"""One layer of each encoder, forward and backward, at the shapes that the config's step has."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from unified_fm import setup
from unified_fm.bench import machine, measured
from unified_fm.config import chosen
from unified_fm.config.settings import Settings
from unified_fm.data import tokenizer as tokenizers
from unified_fm.models import xfm
from unified_fm.models.config import CHOICES, EncoderConfig
from unified_fm.models.encoders import Encoder
from unified_fm.models.memory import ImageMemory, look_together
from unified_fm.models.rows import Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """What goes through an encoder at once.

    Attributes:
        config: of the encoder.
        rows, tokens: of the largest batch of a stream.
        seen: tokens of an image that each row looks at; 0: the rows look at nothing.
        grid: patches on a side; 0: of no image.
    """

    config: EncoderConfig
    rows: int
    tokens: int
    seen: int = 0
    grid: int = 0


def report(settings: Settings, times: int) -> list[str]:
    """Measures a layer of each encoder, as it is and with each `remat`; returns the lines."""
    rate = machine.product_rate(settings.model.get("dtype", "float32"))
    lines = measured.heading("layer")
    for name, shape in shapes(settings).items():
        lines.append(f"{name}: {shape.rows} x {shape.tokens} x {shape.config.width}")
        for remat in CHOICES["remat"]:
            try:
                found = measured.measure(*_layer(shape, remat), times)
            except (ValueError, NotImplementedError, RuntimeError) as error:
                lines.append(measured.refused(f"  remat={remat}", error))
            else:
                lines.append(found.line(f"  remat={remat}", rate))
    return lines


def shapes(settings: Settings) -> dict[str, Shape]:
    """{encoder: the largest that goes through it}: of texts, images, and texts at images.

    Raises:
        ValueError: a model that names no encoders.
    """
    model = chosen.model(settings.model)
    towers = model.towers()
    if not towers:
        raise ValueError(f"{type(model).__module__} names no encoders (`towers`)")
    batches = setup.prepare(settings, tokenizer=tokenizers.load("bytes")).shapes
    texts = [(b["text"].shape, "image" in b) for b in batches.values() if "text" in b]
    images = [b["image"].shape for b in batches.values() if "image" in b]
    found = {}
    if texts and "text" in towers:
        (rows, tokens), _ = max(texts, key=lambda each: each[0][0] * each[0][1])
        found["text"] = Shape(config=towers["text"], rows=rows, tokens=tokens)
    if not images:
        return found
    grid = max(images)[1] // vars(model)["patch_size"]
    if "vision" in towers:
        patches = 1 + grid * grid
        found["vision"] = Shape(
            config=towers["vision"], rows=max(images)[0], tokens=patches, grid=grid
        )
    beside = [shape for shape, seen in texts if seen]
    if beside and isinstance(model, xfm.Model):
        config, (rows, tokens) = model.stack(model.fusion, xfm.FUSION), max(beside)
        found["fusion"] = Shape(config=config, rows=rows, tokens=tokens, seen=1 + grid * grid)
    return found


def _layer(shape: Shape, remat: str) -> tuple[Any, tuple[Any, ...]]:
    """(value and gradients of a sum over one layer, its arguments)."""
    config = dataclasses.replace(shape.config, layers=1, remat=remat, layer_loop="unrolled")
    encoder = Encoder(
        config,
        grid=shape.grid,
        cross_attention=bool(shape.seen),
        padded=not shape.grid,
    )
    keys = jax.random.split(jax.random.key(0), 4)
    still = Rows((shape.rows,))
    rows = dataclasses.replace(still, keys=(keys[0],))
    x, weights = (
        jax.random.normal(key, (shape.rows, shape.tokens, config.width), config.compute_dtype)
        for key in keys[1:3]
    )
    images = jax.random.normal(
        keys[3], (shape.rows, shape.seen, config.width), config.compute_dtype
    )
    mask = None if shape.grid else jnp.ones((shape.rows, shape.tokens), bool)

    def looks(images):
        memory = ImageMemory(images)
        return look_together([(memory, None, "row")], 1) if shape.seen else None

    def loss(params, x, images):
        y: Any = encoder.apply({"params": params}, x, mask, rows, looks(images))
        return (y * weights).sum(dtype=jnp.float32)

    init = jax.jit(lambda x, images: encoder.init(keys[0], x, mask, still, looks(images)))
    params: Mapping[str, Any] = init(x, images)["params"]
    return jax.value_and_grad(loss, argnums=(0, 1, 2)), (params, x, images)
