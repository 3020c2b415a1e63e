"""X-FM in plain PyTorch with the published program's structure (arXiv 2301.05065).

Each encoder makes a pass for each stream and view, and the fusion encoder projects keys and values
of the images again in every pass and for every row. Written afresh from its description.
"""

import dataclasses

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

from unified_fm.bench.published.layers import (
    ImageLayer,
    Stack,
    TextLayer,
    added,
    position_index,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """All numbers of the model."""

    vocab_size: int
    max_positions: int
    pad_id: int
    image_size: int
    patch_size: int
    projection_dim: int
    text: Stack
    vision: Stack
    fusion: Stack

    @classmethod
    def of(cls, given: dict) -> "Sizes":
        """From nested dicts, as JSON gives them."""
        stacks = {name: Stack(**given[name]) for name in ("text", "vision", "fusion")}
        return cls(**{**given, **stacks})


class Model(nn.Module):
    """The three encoders and their heads."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.text_embed = TextEmbed(sizes)
        self.text = TextEncoder(sizes.text)
        self.vision = Vision(sizes)
        self.fusion = TextEncoder(sizes.fusion, sizes.vision.width)
        self.text_proj = nn.Linear(sizes.text.width, sizes.projection_dim)
        self.image_proj = nn.Linear(sizes.vision.width, sizes.projection_dim)
        self.temperature = nn.Parameter(torch.tensor(0.07))
        self.mlm_head = WordHead(sizes.text, sizes.vocab_size)
        self.fusion_mlm_head = WordHead(sizes.fusion, sizes.vocab_size)
        table = torch.randn(sizes.vocab_size, sizes.fusion.width) * 0.02
        self.fusion_mlm_head.embedding = nn.Parameter(table)
        self.itm_head = PairHead(sizes.fusion.width, 2)
        self.box_head = PairHead(sizes.fusion.width, 4)

    def read(self, ids, mask):
        """States f[B L D] of texts i64[B L] with mask bool[B L]."""
        return self.text(self.text_embed(ids), added(mask))

    def fuse(self, text, text_mask, image, image_mask):
        """Fusion states f[B L D] of text states f[B L D] over images f[B M D], row by row."""
        return self.fusion(text, added(text_mask), image, added(image_mask))

    def features(self, text, image):
        """L2-normalised projections f32[B E] of the first slots of texts and images."""
        text, image = self.text_proj(text[:, 0]), self.image_proj(image[:, 0])
        return functional.normalize(text.float(), dim=-1), functional.normalize(
            image.float(), dim=-1
        )

    def words(self, states):
        """Logits f[... V] of the language encoder's states."""
        return self.mlm_head(states, self.text_embed.word.weight)

    def fused_words(self, states):
        """Logits f[... V] of the fusion encoder's states, by a matrix of its own."""
        return self.fusion_mlm_head(states, self.fusion_mlm_head.embedding)


class TextEmbed(nn.Module):
    """RoBERTa's: words, positions that count real tokens, one segment; norm and dropout."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        width = sizes.text.width
        self.pad, self.rate = sizes.pad_id, sizes.text.dropout
        self.word = nn.Embedding(sizes.vocab_size, width)
        self.position = nn.Embedding(sizes.max_positions, width)
        self.token_type = nn.Embedding(1, width)
        self.norm = nn.LayerNorm(width, sizes.text.eps)
        for table in (self.word, self.position, self.token_type):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids):
        """f[B L D] of i64[B L]."""
        real = (ids != self.pad).long()
        places = real.cumsum(dim=1) * real + self.pad
        x = self.word(ids) + self.position(places) + self.token_type.weight[0]
        return functional.dropout(self.norm(x), self.rate, self.training)


class TextEncoder(nn.Module):
    """Layers of RoBERTa, with attention to images where there is a `memory_width`."""

    def __init__(self, stack: Stack, memory_width: int | None = None):
        super().__init__()
        for index in range(stack.layers):
            self.add_module(f"layer_{index:02d}", TextLayer(stack, memory_width))

    def forward(self, x, mask, memory=None, memory_mask=None):
        """f[B L D]; see `TextLayer`."""
        for layer in self.children():
            x = layer(x, mask, memory, memory_mask)
        return x


class Vision(nn.Module):
    """BEiT-2: slot 0 of what it gives is the mean of the normalised patches."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        stack, grid = sizes.vision, sizes.image_size // sizes.patch_size
        self.patch_embed = nn.Conv2d(3, stack.width, sizes.patch_size, sizes.patch_size)
        self.class_token = nn.Parameter(torch.randn(1, 1, stack.width) * 0.02)
        self.mask_token = nn.Parameter(torch.randn(1, 1, stack.width) * 0.02)
        rates = torch.linspace(0, stack.drop_path, stack.layers).tolist()
        self.layers = [f"layer_{index:02d}" for index in range(stack.layers)]
        for name, rate in zip(self.layers, rates, strict=True):
            self.add_module(name, ImageLayer(stack, grid, rate))
        self.norm = nn.LayerNorm(stack.width, stack.eps)
        self.register_buffer("index", position_index(grid), persistent=False)

    def forward(self, image, patch_mask=None):
        """f[B 1+N D] of image f[B 3 S S]; patches where patch_mask bool[B N] is True are hidden."""
        x = self.patch_embed(image).flatten(2).transpose(1, 2)
        if patch_mask is not None:
            x = torch.where(patch_mask[..., None], self.mask_token.to(x.dtype), x)
        x = torch.cat([self.class_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
        for name in self.layers:
            x = self.get_submodule(name)(x, self.index)
        patches = self.norm(x[:, 1:])
        return torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)


class WordHead(nn.Module):
    """RoBERTa's: dense, GELU, norm, then the words of a table."""

    def __init__(self, stack: Stack, words: int):
        super().__init__()
        self.dense = nn.Linear(stack.width, stack.width)
        self.norm = nn.LayerNorm(stack.width, stack.eps)
        self.bias = nn.Parameter(torch.zeros(words))

    def forward(self, states, table):
        """Logits f[... V] of states f[... D] by table f[V D]."""
        x = self.norm(functional.gelu(self.dense(states)))
        return functional.linear(x, table, self.bias)


class PairHead(nn.Module):
    """Dense to twice the width, norm, GELU, dense."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.dense = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(2 * width, 1e-5)
        self.out = nn.Linear(2 * width, outputs)

    def forward(self, x):
        """f32[... outputs] of x f[... D]."""
        return self.out(functional.gelu(self.norm(self.dense(x)))).float()


def seeded(sizes: Sizes, seed: int) -> Model:
    """A model with initial values of the usual size; their exact values do not matter here."""
    torch.manual_seed(seed)
    model = Model(sizes)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
    return model
