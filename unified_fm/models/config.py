"""The numbers that describe one stack of transformer layers."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import jax.numpy as jnp

from unified_fm import choices
from unified_fm.models import fused

CHOICES = {
    "norm": ("post", "pre"),
    "gelu": ("erf", "tanh", "quick"),
    "init": ("normal", "truncated_normal", "lecun_normal", "uniform_fan_in"),
    "residual_init_scale": ("none", "stack", "layer"),
    "attention": ("auto", "einsum", "xla", "cudnn"),
    "remat": ("none", "full", "dots"),
    "layer_loop": ("auto", "unrolled", "scan"),
    "dtype": ("float32", "bfloat16"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """One stack of layers: RoBERTa, BERT, BEiT, ViT and the fusion encoder are all of this kind.

    Attributes:
        layers: how many layers.
        width: size of a hidden state.
        heads: attention heads; they divide the width.
        mlp_width: hidden size of the MLP.
        norm: "post" normalises after each residual sum (BERT), "pre" before each branch (ViT).
        eps: epsilon of the layer norms; 1e-5 RoBERTa, 1e-6 BEiT and vit_jax, 1e-12 BERT.
        gelu: "erf" (exact), "tanh" (Google's BERT and vit_jax) or "quick" (CLIP).
        dropout: rate on embeddings and on the output of every branch, to the nearest 1/256.
        attention_dropout: rate on attention probabilities, to the nearest 1/256.
        drop_path: rate of the last layer; the others are linearly spaced from 0.
        layer_scale: initial value of the learned scale of each branch, or None for no scale.
        relative_position_bias: BEiT's table of biases, one in each layer.
        query_bias, key_bias, value_bias: whether the projections have a bias (BEiT: no key bias).
        init: distribution of the kernels: "normal", "truncated_normal" (at two deviations), both of
            `init_std`, "lecun_normal", or "uniform_fan_in" (U(+-1/sqrt(fan_in)), as in PyTorch).
        init_std: standard deviation of the two normal choices.
        residual_init_scale: divides the kernels that write to the residual stream: "none", "stack"
            (by sqrt(2 * layers)) or "layer" (by sqrt(2 * l), l counted from 1, as in BEiT).
        attention: implementation; "auto" chooses by platform (see `models.fused`). "xla" and
            "cudnn" exclude `attention_dropout`.
        remat: "none", "full" (recompute each layer in the backward pass) or "dots" (keep products).
        layer_loop: "unrolled" compiles every layer, "scan" one for all, in a fraction of the
            time. "auto" unrolls on CPU, where the step itself is a little faster so.
        unpad: share of the places of padded texts for which there is room where each token goes its
            own way, all but attention; a batch with more tokens takes all places. 1 = always all.
            It pays where texts are much shorter than their rows, as captions are, and costs a
            second form of the encoder to compile (see `models.unpadding`).
        dtype: of the computation; parameters, norms' statistics and softmax stay in float32.
    """

    layers: int = 12
    width: int = 768
    heads: int = 12
    mlp_width: int = 3072
    norm: str = "post"
    eps: float = 1e-5
    gelu: str = "erf"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    layer_scale: float | None = None
    relative_position_bias: bool = False
    query_bias: bool = True
    key_bias: bool = True
    value_bias: bool = True
    init: str = "normal"
    init_std: float = 0.02
    residual_init_scale: str = "none"
    attention: str = "auto"
    remat: str = "none"
    layer_loop: str = "auto"
    unpad: float = 1.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            choices.check(name, getattr(self, name), known)
        for name in ("layers", "width", "heads", "mlp_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        for name in ("dropout", "attention_dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1)")
        if not 0 < self.unpad <= 1:
            raise ValueError(f"unpad is {self.unpad}; it is a share of the places, above 0 to 1")
        self._check_attention()

    def _check_attention(self) -> None:
        """Refuses an implementation that these numbers exclude, whatever the devices."""
        obstacle = None
        if self.attention == "cudnn":
            obstacle = fused.obstacle_to_cudnn(self.dtype, self.head_width)
        if self.attention in ("xla", "cudnn") and self.attention_dropout:
            rate = self.attention_dropout
            obstacle = f"only the einsum drops, and attention_dropout is {rate}"
        if obstacle:
            raise ValueError(
                f"attention is {self.attention!r}, which cannot be: {obstacle}. Possible: "
                "attention='auto', which takes what can be, attention='einsum', or another value "
                "there"
            )

    @property
    def head_width(self) -> int:
        """Size of the queries, keys and values of one head."""
        return self.width // self.heads

    @property
    def compute_dtype(self) -> jnp.dtype:
        """The dtype that activations have."""
        return jnp.dtype(self.dtype)


# An option of a model: the fields of one of its stacks that differ from the model's defaults.
Fields = Annotated[Mapping[str, Any], EncoderConfig]


def check_patches(image_size: int, patch_size: int) -> None:
    """Refuses images that are not cut into whole patches.

    Raises:
        ValueError: with both sizes.
    """
    if patch_size < 1 or image_size < 1 or image_size % patch_size:
        raise ValueError(f"image_size {image_size} is not a multiple of patch_size {patch_size}")


def encoder_config(given: Mapping[str, Any], **defaults: Any) -> EncoderConfig:
    """Makes an `EncoderConfig` of `defaults` overridden by `given`.

    Raises:
        TypeError: `given` has a key that is not a field; the message names the nearest field.
    """
    fields = [field.name for field in dataclasses.fields(EncoderConfig)]
    for key in given:
        if key not in fields:
            raise TypeError(f"an encoder has no field {key!r}; {choices.possible(key, fields)}")
    return EncoderConfig(**(defaults | dict(given)))
