"""Transformer layers in plain PyTorch, as the published program's are: RoBERTa's and BEiT-2's.

Parameters are named as ours, so that a tree of ours can be copied in (see `parameters`).
"""

import dataclasses
import math

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

HIDDEN = -10000.0  # added to the logits of what may not be seen


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stack:
    """The numbers of one stack of layers; see `unified_fm.models.config.EncoderConfig`.

    Attributes:
        attention: "eager" has the probabilities as an array; "sdpa" is PyTorch's fused attention.
    """

    layers: int
    width: int
    heads: int
    mlp_width: int
    eps: float
    dropout: float
    attention_dropout: float
    drop_path: float
    attention: str = "eager"


class Attention(nn.Module):
    """Of a text to itself or to images, with projections of its own for each pass."""

    def __init__(self, stack: Stack, memory_width: int | None = None):
        super().__init__()
        self.stack = stack
        seen = memory_width or stack.width
        self.query = nn.Linear(stack.width, stack.width)
        self.key = nn.Linear(seen, stack.width)
        self.value = nn.Linear(seen, stack.width)
        self.out = nn.Linear(stack.width, stack.width)

    def forward(self, x, memory, mask):
        """f[B L D] of x f[B L D] that looks at memory f[B M D], with mask f[B 1 1 M] added."""
        asked, keys, values = self.query(x), self.key(memory), self.value(memory)
        return self.out(attend(self.stack, asked, keys, values, mask, self.training))


class ImageAttention(nn.Module):
    """BEiT's: one product for queries, keys (without a bias) and values; biases by position."""

    def __init__(self, stack: Stack):
        super().__init__()
        self.stack = stack
        self.qkv = nn.Linear(stack.width, 3 * stack.width, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(stack.width))
        self.value_bias = nn.Parameter(torch.zeros(stack.width))
        self.out = nn.Linear(stack.width, stack.width)

    def forward(self, x, bias):
        """f[B T D] of x f[B T D], with bias f[H T T] added to the logits."""
        still = torch.zeros_like(self.query_bias)
        biases = torch.cat([self.query_bias, still, self.value_bias])
        asked, keys, values = functional.linear(x, self.qkv.weight, biases).chunk(3, dim=-1)
        return self.out(attend(self.stack, asked, keys, values, bias[None], self.training))


def attend(stack: Stack, query, key, value, mask, training: bool):
    """Softmax attention f[B L D] of query f[B L D] over key and value f[B M D], in heads.

    Args:
        stack: its heads, its dropout, and how it is computed.
        query, key, value: see above.
        mask: added to the logits, broadcastable to [B H L M].
        training: whether probabilities are dropped.
    """
    rate = stack.attention_dropout if training else 0.0
    query, key, value = (_heads(x, stack.heads) for x in (query, key, value))
    if stack.attention == "sdpa":
        mask = mask.to(query.dtype)
        seen = functional.scaled_dot_product_attention(query, key, value, mask, rate)
    else:
        query = query / math.sqrt(query.shape[-1])
        chances = (query @ key.transpose(-1, -2) + mask).softmax(dim=-1)
        seen = functional.dropout(chances, rate).to(value.dtype) @ value
    return seen.transpose(1, 2).flatten(2)


class TextLayer(nn.Module):
    """RoBERTa's: norms after the sums; across to images where there is a `memory_width`."""

    def __init__(self, stack: Stack, memory_width: int | None = None):
        super().__init__()
        self.rate = stack.dropout
        self.self_attn = Attention(stack)
        self.self_norm = nn.LayerNorm(stack.width, stack.eps)
        if memory_width is not None:
            self.cross_attn = Attention(stack, memory_width)
            self.cross_norm = nn.LayerNorm(stack.width, stack.eps)
        self.mlp_in = nn.Linear(stack.width, stack.mlp_width)
        self.mlp_out = nn.Linear(stack.mlp_width, stack.width)
        self.mlp_norm = nn.LayerNorm(stack.width, stack.eps)

    def forward(self, x, mask, memory=None, memory_mask=None):
        """f[B L D] of x f[B L D]; memory f[B M D]; masks f[B 1 1 L] and f[B 1 1 M] are added."""
        x = self.self_norm(x + self._dropped(self.self_attn(x, x, mask)))
        if memory is not None:
            x = self.cross_norm(x + self._dropped(self.cross_attn(x, memory, memory_mask)))
        return self.mlp_norm(x + self._dropped(self.mlp_out(functional.gelu(self.mlp_in(x)))))

    def _dropped(self, x):
        return functional.dropout(x, self.rate, self.training)


class ImageLayer(nn.Module):
    """BEiT's: norms before the branches, which are scaled and dropped out by image."""

    def __init__(self, stack: Stack, grid: int, drop_path: float):
        super().__init__()
        self.self_norm = nn.LayerNorm(stack.width, stack.eps)
        self.self_attn = ImageAttention(stack)
        self.mlp_norm = nn.LayerNorm(stack.width, stack.eps)
        self.mlp_in = nn.Linear(stack.width, stack.mlp_width)
        self.mlp_out = nn.Linear(stack.mlp_width, stack.width)
        self.scale_attn = nn.Parameter(torch.full((stack.width,), 0.1))
        self.scale_mlp = nn.Parameter(torch.full((stack.width,), 0.1))
        rows = (2 * grid - 1) ** 2 + 3
        self.relative_position_bias = nn.Parameter(torch.zeros(rows, stack.heads))
        # A tensor, so that a compiler sees the same layer whatever the rate is.
        self.register_buffer("kept", torch.tensor(1 - drop_path), persistent=False)

    def forward(self, x, index):
        """f[B T D] of x f[B T D]; index i64[T T] has the rows of the table of biases."""
        bias = self.relative_position_bias[index].permute(2, 0, 1)
        x = x + self._path(self.scale_attn * self.self_attn(self.self_norm(x), bias))
        y = self.mlp_out(functional.gelu(self.mlp_in(self.mlp_norm(x))))
        return x + self._path(self.scale_mlp * y)

    def _path(self, y):
        if not self.training:
            return y
        drawn = torch.rand((len(y), 1, 1), device=y.device) < self.kept
        return y * (drawn / self.kept).to(y.dtype)


def position_index(grid: int) -> torch.Tensor:
    """Rows of BEiT's table for a class token and the patches of a square grid, i64[1+N 1+N]."""
    places = torch.stack(torch.meshgrid(*[torch.arange(grid)] * 2, indexing="ij")).flatten(1)
    apart = places[:, :, None] - places[:, None, :] + grid - 1  # i64[2 N N]
    index = torch.empty((1 + grid**2,) * 2, dtype=torch.int64)
    index[1:, 1:] = apart[0] * (2 * grid - 1) + apart[1]
    first = (2 * grid - 1) ** 2
    index[0, :], index[:, 0], index[0, 0] = first, first + 1, first + 2
    return index


def added(mask) -> torch.Tensor:
    """A mask bool[B M] (True = may be seen) as what is added to logits, f[B 1 1 M]."""
    return (~mask).float()[:, None, None] * HIDDEN


def _heads(x, heads: int):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # f[B H L D/H]
