"""Task-specific outputs on top of hidden states."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from unified_fm.models import draws
from unified_fm.models.config import EncoderConfig
from unified_fm.models.layer_norm import LayerNorm
from unified_fm.models.layers import gelu, layer_norm
from unified_fm.models.vocabulary import cross_entropy


class MlmHead(nn.Module):
    """Dense, GELU, layer norm, then logits over the vocabulary, as in BERT and RoBERTa.

    Attributes:
        config: of the encoder below; gives width, eps, gelu, dtype and initial values.
        vocabulary: number of words.
        tied: a text embedding whose `table()` decodes; None = an output matrix of its own.
    """

    config: EncoderConfig
    vocabulary: int
    tied: nn.Module | None = None

    def setup(self):
        c = self.config
        init = nn.initializers.normal(c.init_std)
        self.dense = nn.Dense(c.width, dtype=c.compute_dtype, kernel_init=init)
        self.norm = layer_norm(c)
        if self.tied is None:
            self.embedding = self.param("embedding", init, (self.vocabulary, c.width))
        self.bias = self.param("bias", nn.initializers.zeros, (self.vocabulary,))

    def __call__(self, x):
        """Logits f32[... V] of hidden states x f[... D]."""
        x, table = self._states(x), self._table()
        logits = jnp.einsum(
            "...d,vd->...v", x, table.astype(x.dtype), preferred_element_type=jnp.float32
        )
        return logits + self.bias

    def cross_entropy(self, x, ids, *, smoothing=0.0, never=()):
        """(Cross-entropy f32[...], whether it is the best guess bool[...]) of words ids i32[...].

        The logits are never there all at once.

        Args:
            x: f[... D], hidden states.
            ids: i32[...].
            smoothing: share of the target that the V - 1 other words have between them, as in
                ALBEF's captioning: 1 - smoothing for the true one.
            never: ids of words that have no probability at all; not with smoothing.
        """
        x, table, bias = self._states(x), self._table(), self.bias
        if never:
            if smoothing:
                raise ValueError(f"smoothing {smoothing} needs every word, but never has {never}")
            bias = bias.at[jnp.array(never)].set(jnp.finfo(bias.dtype).min)
        loss, right = cross_entropy(x, table, bias, ids)
        if smoothing:
            # Of the sum over all words only that of their rows is needed.
            of_all = jnp.einsum("...d,d->...", x.astype(jnp.float32), table.sum(0)) + bias.sum()
            own = self._logits_of(x, ids)
            loss = loss + smoothing / (self.vocabulary - 1) * (self.vocabulary * own - of_all)
        return loss, right

    def log_probabilities(self, x, rows, ids):
        """f32[B E] of words ids i32[E], each after one of the N states of a row.

        Args:
            x: f[B N D].
            rows: i32[E], which of the N.
            ids: i32[E].
        """
        x, none = self._states(x), jnp.zeros(x.shape[:-1], jnp.int32)
        rest = cross_entropy(x, self._table(), self.bias, none)[0] + self._logits_of(x, none)
        return self._logits_of(x[:, rows], ids) - rest[:, rows]

    def _logits_of(self, x, ids):
        """Logits f32[...] of words ids i32[...], as x f[... D] comes from `_states`."""
        rows = self._table()[ids].astype(x.dtype)
        return (
            jnp.einsum("...d,...d->...", x, rows, preferred_element_type=jnp.float32)
            + (self.bias[ids])
        )

    def _states(self, x):
        return self.norm(gelu(self.dense(x), self.config.gelu))

    def _table(self):
        return self.embedding if self.tied is None else self.tied.table()


class PairHead(nn.Module):
    """Dense to twice the width, layer norm, GELU, dense: X-FM's matching and box heads.

    Attributes:
        outputs: 2 for matching (class 1 = match), 4 for a box.
        activation: "none", or "sigmoid" for boxes (cx, cy, w, h) in 0..1.
        eps: of the layer norm; 1e-5 as published, whatever the encoders have.
        dtype: of the computation.
    """

    outputs: int
    activation: str = "none"
    eps: float = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        """f32[... outputs] of hidden states x f[... D]."""
        x = default_dense(2 * x.shape[-1], x.shape[-1], self.dtype, name="dense")(x)
        x = LayerNorm(self.eps, self.dtype, name="norm")(x)
        x = jax.nn.gelu(x, approximate=False)
        x = default_dense(self.outputs, x.shape[-1], "float32", name="out")(x)
        return jax.nn.sigmoid(x) if self.activation == "sigmoid" else x


class ClassHead(nn.Module):
    """A linear map that starts at zero, for fine-tuning on the summary of an image (ViT).

    From zero, the first steps move the head alone and do not disturb the features.
    """

    classes: int

    @nn.compact
    def __call__(self, x):
        """Logits f32[... C] of summaries x f[... D]."""
        return class_dense(self.classes, 0.0, name="out")(x.astype(jnp.float32))


class DeepHead(nn.Module):
    """Five dense layers of 2, 4, 2, 1 times twice the width, and the classes, each but the last
    with layer norm and GELU: X-FM's head for images (its section 4.7).

    It reads the summary twice, as the published one reads slot 0 beside the mean of the patches,
    which slot 0 is.
    """

    classes: int
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x):
        """Logits f32[... C] of summaries x f[... D]."""
        x = jnp.concatenate([x, x], axis=-1).astype(jnp.float32)
        width = x.shape[-1]
        for number, factor in enumerate((2, 4, 2, 1)):
            x = default_dense(factor * width, x.shape[-1], "float32", name=f"dense_{number}")(x)
            x = LayerNorm(self.eps, "float32", name=f"norm_{number}")(x)
            x = jax.nn.gelu(x, approximate=False)
        return default_dense(self.classes, x.shape[-1], "float32", name="out")(x)


class PooledHead(nn.Module):
    """Dense, tanh, dropout, linear: BERT's head for fine-tuning on the first token of a text.

    Attributes:
        classes: number of outputs.
        dropout: rate, active where the caller passes the rng "dropout".
        init_std: of both kernels.
    """

    classes: int
    dropout: float = 0.1
    init_std: float = 0.02

    @nn.compact
    def __call__(self, x):
        """Logits f32[... C] of first tokens x f[... D]."""
        init = nn.initializers.normal(self.init_std)
        x = nn.Dense(x.shape[-1], kernel_init=init, name="pooler")(x.astype(jnp.float32))
        still = not self.has_rng("dropout")
        x = nn.Dropout(self.dropout, deterministic=still)(jnp.tanh(x))
        return nn.Dense(self.classes, kernel_init=init, name="out")(x)


def class_dense(classes: int, bias: float, name: str | None = None) -> nn.Dense:
    """A class head in float32, as ViT has it: kernel zero, all biases equal."""
    return nn.Dense(
        classes,
        kernel_init=nn.initializers.zeros,
        bias_init=nn.initializers.constant(bias),
        name=name,
    )


def default_dense(features: int, fan_in: int, dtype: str, name: str | None = None) -> nn.Dense:
    """A dense layer with PyTorch's default initial values, weight and bias in U(+-1/sqrt(fan_in)).

    X-FM's projections and heads keep that default: the published normal(0, 0.02) does not reach
    them (X-FM section 1.5).
    """
    return nn.Dense(
        features,
        dtype=jnp.dtype(dtype),
        kernel_init=draws.uniform_fan_in,
        bias_init=draws.uniform(fan_in),
        name=name,
    )


def l2_normalised(x):
    """x f[... D] over its Euclidean norm, in float32; a zero vector stays zero, without NaN."""
    x = x.astype(jnp.float32)
    square = jnp.square(x).sum(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
