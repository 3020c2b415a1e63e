"""Self-critical training: captions are drawn, and those with a higher score made likelier.

    learnt = dict(scst=dict(frequencies="data/coco/train_frequencies.json"))
    c.streams = dict(task=stream("captioning", SOURCE, 32, learnt, references=5, size=384))
    c.init = "runs/captioning"          a model that cross-entropy has trained (tasks/captioning.py)

Of each image K captions are drawn; the reward r of each is CIDEr-D against the image's references,
with the frequencies of the training set (`unified-fm data frequencies`). The loss, of which only
log p has a gradient, is -(1 / B K) sum (r - b) sum_t log p(w_t); look at the mean `reward`, for the
loss is near 0 whatever is learnt.

The reward is computed on the host, between two parts of one compiled step. So the loop, resuming,
micro-batches and evaluation are those of any objective, and the same step draws the same captions
after a resumption, because their key is the step's. The callback is a pure function of its
arguments, which is what allows the compiler to leave it out where nobody needs it.
"""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_fm import choices
from unified_fm.data.tokenizer import Tokenizer
from unified_fm.models.beam import Writing
from unified_fm.models.memory import ImageMemory
from unified_fm.objectives.base import Output, row_weights, weighted_mean
from unified_fm.tasks import captioning
from unified_fm.tasks._metrics import caption_reward
from unified_fm.tasks._metrics.ngrams import DocumentFrequencies, load_frequencies
from unified_fm.tasks._metrics.ptb import tokenize
from unified_fm.tasks._writing import text_of

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(captioning.Objective):
    """The loss above; metrics: `reward` of the drawn captions, `baseline`, and their `length`.

    Reads `image`, `prompt i32[B P]`, `references u8[B R C]` and `weight` of a batch. Captions are
    drawn at temperature 1 from all words, without dropout in the decoder.

    Attributes:
        frequencies: path of the document frequencies of the training references, JSON.
        frequencies_hash: what its hash must be; "": any.
        samples: K, captions of each image.
        baseline: "mean" of the image's other captions; "greedy", the reward of the caption that
            takes the best word each time; "none".
        end_in_reward: count the end as a word: without it captions learn to stop at "in the".
        per_token: divide the sum over t by the number of tokens.
    """

    label_smoothing: float = 0.0
    frequencies: str
    frequencies_hash: str = ""
    samples: int = 5
    baseline: str = "mean"
    end_in_reward: bool = True
    per_token: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        choices.check("baseline", self.baseline, ("mean", "greedy", "none"))
        least = 2 if self.baseline == "mean" else 1
        if self.samples < least:
            raise ValueError(
                f"samples is {self.samples}; baseline={self.baseline!r} needs at least {least}"
            )
        if self.label_smoothing:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; there are no labels here")

    def __call__(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Output:
        if "references" not in batch:
            raise ValueError(
                "objective 'scst' compares with references, and the stream gives none: set the"
                " option references of its pipeline 'captioning' to 5, say"
            )
        decoder = self.attached(net, captioning.NAME)
        memory, prompt = ImageMemory(image=views.image), batch["prompt"]
        if net.is_initializing():
            loss = decoder.losses(decoder(prompt, memory), prompt)
            return Output(loss=loss.mean(), denominator=jnp.float32(1))
        drawn, rewards, baseline = self._drawn(decoder, memory, batch, net.make_rng("objective"))
        known = prompt.shape[1]
        told = jnp.repeat(prompt[:, None], self.samples, axis=1)
        whole = jnp.concatenate([told, drawn], axis=-1)  # i32[B K P+L]
        states = decoder(whole[..., :-1], memory, drop=False)[:, :, known - 1 :]
        losses = decoder.losses(states, drawn, never=self.never(decoder.vocabulary))
        mask = written(drawn, self.vocabulary.sep_id)
        per_image = policy_loss(losses, mask, rewards - baseline, per_token=self.per_token)
        weights = row_weights(batch, len(prompt))
        loss, denominator = weighted_mean(per_image, weights)
        found = {"reward": rewards, "baseline": baseline, "length": mask.sum(-1)}
        metrics = {k: weighted_mean(x.mean(-1), weights)[0] for k, x in found.items()}
        return Output(loss=loss, denominator=denominator, metrics=metrics)

    def _drawn(self, decoder: Any, memory: Any, batch: Any, key: jax.Array) -> Any:
        """(Captions i32[B K L], their rewards f32[B K], what these are compared with f32[B K])."""
        module, variables = decoder.unbind()
        still = module.bind(jax.lax.stop_gradient(variables))
        memory = memory.replace(image=jax.lax.stop_gradient(memory.image))
        plain = Writing(max_new_tokens=self.max_new_tokens, min_new_tokens=0)
        how = dataclasses.replace(plain, samples=self.samples)
        ids = [self.write(still, memory, batch["prompt"], how, key=key).ids]
        if self.baseline == "greedy":
            ids.append(self.write(still, memory, batch["prompt"], plain).ids)
        ids = jnp.concatenate(ids, axis=1)
        rewards = rewards_of(self._reward(), ids, batch["references"])
        drawn, rest = rewards[:, : self.samples], rewards[:, self.samples :]
        if self.baseline == "mean":
            return ids, drawn, (drawn.sum(1, keepdims=True) - drawn) / (self.samples - 1)
        rest = rest if self.baseline == "greedy" else jnp.zeros_like(drawn[:, :1])
        return ids[:, : self.samples], drawn, jnp.broadcast_to(rest, drawn.shape)

    def _reward(self) -> "Reward":
        return _reward(self.frequencies, self.frequencies_hash, self.vocabulary, self.end_in_reward)


@dataclasses.dataclass(frozen=True, eq=False)
class Reward:
    """CIDEr-D of captions as tokens: NumPy in, NumPy out; called by a compiled program.

    Attributes:
        tokenizer: turns them into words.
        corpus: document frequencies of the training references, the end counted as a word.
        ends: whether the end counts as a word.
    """

    tokenizer: Tokenizer
    corpus: DocumentFrequencies
    ends: bool = True

    def __call__(self, ids: Any, references: Any) -> np.ndarray:
        """f32[B K] of captions i32[B K L] against references u8[B R C]; 0 without references."""
        ids, references = np.asarray(ids), np.asarray(references)
        found = np.zeros(ids.shape[:2], np.float32)
        for row, (captions, known) in enumerate(zip(ids, references, strict=True)):
            truth = [bytes(each).rstrip(b"\0").decode().split() for each in known if each.any()]
            said = [self._words(caption) for caption in captions]
            found[row] = caption_reward.rewards(said, truth, self.corpus, ends=self.ends)
        return found

    def _words(self, ids: np.ndarray) -> tuple[Sequence[str], bool]:
        words = tokenize(text_of(self.tokenizer, ids))
        return words, self.tokenizer.sep_id in ids


def rewards_of(reward: Any, ids: jax.Array, references: jax.Array) -> jax.Array:
    """`reward` f32[B K] inside a compiled program; it has no gradient."""
    shape = jax.ShapeDtypeStruct(ids.shape[:2], jnp.float32)
    found = jax.pure_callback(reward, shape, ids, references, vmap_method="sequential")
    return jax.lax.stop_gradient(found)


def written(ids: jax.Array, end: int) -> jax.Array:
    """bool[... L], which of new tokens i32[... L] were written: up to the first end."""
    ends = (ids == end).astype(jnp.int32)
    return jnp.cumsum(ends, axis=-1) - ends == 0


def policy_loss(
    losses: jax.Array, mask: jax.Array, advantages: jax.Array, *, per_token: bool = False
) -> jax.Array:
    """f32[B], whose gradient is that of -E[(r - b) log p], by draws; mean over K.

    Args:
        losses: f32[B K L], -log p of the tokens that were drawn.
        mask: bool[B K L], which of them were written.
        advantages: f32[B K], r - b.
        per_token: divide by the number of tokens.
    """
    total = jnp.where(mask, losses, 0.0).sum(-1)
    if per_token:
        total = total / jnp.maximum(mask.sum(-1), 1)
    return (jax.lax.stop_gradient(advantages) * total).mean(-1)


@functools.lru_cache(maxsize=4)
def _reward(path: str, wanted: str, tokenizer: Tokenizer, ends: bool) -> Reward:
    """Raises ValueError: the file has another hash; and as `load_frequencies`."""
    corpus = load_frequencies(path)
    if wanted and corpus.hash != wanted:
        raise ValueError(f"{path} has the hash {corpus.hash}, frequencies_hash is {wanted}")
    _log.info("rewards: frequencies of %d images from %s (%s)", corpus.images, path, corpus.hash)
    return Reward(tokenizer, corpus, ends)
