"""Mixup, cutmix and random erasing of a batch of images, inside the step (section 7.3 of the
published programs' recipes: mixup, arXiv 1710.09412; cutmix, 1905.04899; erasing, 1708.04896)."""

import jax
import jax.numpy as jnp

Box = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # top, bottom, left, right; i32[]


def mixed(
    rng: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    *,
    mixup: float,
    cutmix: float,
    switch: float = 0.5,
) -> tuple[jax.Array, jax.Array]:
    """(images f32[B H W 3], targets f32[B C]), each mixed with the one at its place from the end.

    One share for the whole batch: Beta(a, a) of mixup, or of cutmix the part of the image that its
    box leaves, counted after the box was cut at the border.

    Args:
        rng: a key.
        images: f32[B H W 3], normalised.
        targets: f32[B C], one-hot or soft.
        mixup, cutmix: a of the Beta distributions; 0: not that one. One of them is above 0.
        switch: chance of cutmix where both may be.
    """
    which, share, place = jax.random.split(rng, 3)
    cuts = jax.random.bernoulli(which, switch)
    if not mixup or not cutmix:
        cuts = jnp.bool_(bool(cutmix))
    strength = jnp.where(cuts, cutmix or 1.0, mixup or 1.0)
    drawn = jax.random.beta(share, a=strength, b=strength)
    height, width = images.shape[1:3]
    box, kept = cut_box(place, drawn, height, width)
    kept = jnp.where(cuts, kept, drawn)
    other = images[::-1]
    blended = kept * images + (1 - kept) * other
    pasted = jnp.where(inside(box, height, width)[..., None], other, images)
    return jnp.where(cuts, pasted, blended), kept * targets + (1 - kept) * targets[::-1]


def cut_box(rng: jax.Array, share: jax.Array, height: int, width: int) -> tuple[Box, jax.Array]:
    """(a box, the share f32[] of the image outside it).

    Its sides are sqrt(1 - share) of the image's, its centre is anywhere in the image, and what
    sticks out is cut off: so the share that is left may be more than the one that was asked for.
    """
    ratio = jnp.sqrt(1 - share)
    edges = []
    for key, size in zip(jax.random.split(rng), (height, width), strict=True):
        half = jnp.floor(size * ratio).astype(jnp.int32) // 2
        centre = jax.random.randint(key, (), 0, size)
        edges += [jnp.clip(centre - half, 0, size), jnp.clip(centre + half, 0, size)]
    top, bottom, left, right = edges
    area = (bottom - top) * (right - left)
    return (top, bottom, left, right), 1 - area / (height * width)


def erased(rng: jax.Array, images: jax.Array, chance: float) -> jax.Array:
    """Images f32[B H W 3], normalised, of which some have a box of noise N(0, 1), one per pixel.

    The box has 2 to 33 % of the area and an aspect of 0.3 to 3.3; a longer side than the image's is
    cut to it.
    """
    rows, height, width, _ = images.shape
    keys = jax.random.split(rng, 6)
    area = height * width * jax.random.uniform(keys[0], (rows,), minval=0.02, maxval=0.33)
    low, high = jnp.log(0.3), jnp.log(3.3)
    aspect = jnp.exp(jax.random.uniform(keys[1], (rows,), minval=low, maxval=high))
    tall = jnp.clip(jnp.rint(jnp.sqrt(area * aspect)), 1, height)
    wide = jnp.clip(jnp.rint(jnp.sqrt(area / aspect)), 1, width)
    top = jnp.floor(jax.random.uniform(keys[2], (rows,)) * (height - tall + 1))
    left = jnp.floor(jax.random.uniform(keys[3], (rows,)) * (width - wide + 1))
    top, bottom, left, right = (
        edge[:, None, None] for edge in (top, top + tall, left, left + wide)
    )
    box = top, bottom, left, right
    hidden = inside(box, height, width) & jax.random.bernoulli(keys[4], chance, (rows, 1, 1))
    noise = jax.random.normal(keys[5], images.shape, images.dtype)
    return jnp.where(hidden[..., None], noise, images)


def inside(box: Box, height: int, width: int) -> jax.Array:
    """bool[... H W]: the pixels of a box, whose edges may have axes [... 1 1] before."""
    top, bottom, left, right = box
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None]
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)


def soft(labels: jax.Array, classes: int, smoothing: float) -> jax.Array:
    """Targets f32[B C] of labels i32[B]: s / C everywhere, and 1 - s more at the label."""
    return (1 - smoothing) * jax.nn.one_hot(labels, classes) + smoothing / classes
