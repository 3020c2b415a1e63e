"""The contract of an objective, what it returns, and the weighted means that all of them take."""

import dataclasses
from abc import abstractmethod
from collections.abc import Collection, Generator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp

IGNORED = -100  # an unused slot of `masked_ids`
# What counts as the same pair: see `same_pair`.
SAME = ("row", "ids", "texts")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """The value of one objective on one batch.

    Micro-batches recombine exactly: with loss_i and denominator_i of the parts of a batch, the loss
    of the whole is sum(loss_i * denominator_i) / sum(denominator_i), and so is each metric. The
    exception is an objective whose class says `accumulates = False`: its rows look at each other.

    Attributes:
        loss: f32[].
        denominator: f32[], what the mean was divided by; it has no gradient. 0 = nothing to learn.
        metrics: name -> f32[], to be logged; means over the same rows.
        parts: name -> (loss, denominator) of the terms of `loss`, for objectives of several terms.
    """

    loss: jax.Array
    denominator: jax.Array
    metrics: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
    parts: dict[str, tuple[jax.Array, jax.Array]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Fuse:
    """Texts that are to go through the fusion encoder: the arguments of `net.fuse`.

    An objective that writes `fused = yield Fuse(...)` where it could write `net.fuse(...)` lets the
    step send its rows through the encoder together with those of all others. `yield (Fuse(...),
    Fuse(...))` gives a list.

    Attributes:
        text: f[B' L D], states of the language encoder.
        text_mask: bool[B' L].
        memory: `views.image_memory`.
        rows: i32[B'], whose image each text looks at, by its place in its group; None = its own.
        view: "row" (a region row shows its region) or "image" (its whole image).
    """

    text: jax.Array
    text_mask: jax.Array
    memory: Any
    rows: jax.Array | None = None
    view: str = "row"


# What an objective gives: its value, or a generator that asks for fusion states before it has one.
Result = Output | Generator[Fuse | tuple[Fuse, ...], Any, Output]
# What an objective predicts, or a generator that asks for fusion states before it has that.
Found = dict[str, jax.Array]
Asking = Generator[Fuse | tuple[Fuse, ...], Any, Found]


class Lesson(NamedTuple):
    """What an objective reads of a teacher.

    Attributes:
        key: which of the teacher's arrays (`models.base.Model.targets`).
        kind: how student and teacher are compared, a `kind` of `distill`.
        temperature: of that comparison.
    """

    key: str
    kind: str
    temperature: float


class Objective(Protocol):
    """A loss of a batch: a frozen dataclass, whose fields are options of the config.

    Derive from it: then `reads` and `__call__` are all that is to be written. What depends on the
    options is a property. A batch that cannot give what is read is refused before anything is
    traced, so `__call__` need not look whether it is there.

    Attributes:
        reads: {name of a view: whether the gradient of the loss flows into it}.
        encodes: names of views that it has the model make of what it hands over itself (two images,
            images that it has mixed), so that the batch need not have what they are made of.
        accumulates: whether the losses of micro-batches recombine exactly (see `Output`); False
            where the rows of a batch look at each other.
        refers: whether a row looks at other rows of its group (`views.groups`); the mesh must not
            cut such groups.
        ema_reads: views of the model with the averaged parameters; the step puts them into
            `batch["teacher"]["ema"]`. Such an objective needs `ema` in the config.
        lessons: {name of a teacher: what is read of it}, in `batch["teacher"][NAME]`.
        same: where rows are each other's negatives, what tells those that carry the same pair, one
            of `SAME`; "" elsewhere.
    """

    reads: ClassVar[Mapping[str, bool]] = MappingProxyType({})
    encodes: ClassVar[Collection[str]] = ()
    accumulates: ClassVar[bool] = True
    refers: ClassVar[bool] = False
    ema_reads: ClassVar[Collection[str]] = ()
    lessons: ClassVar[Mapping[str, Lesson]] = MappingProxyType({})
    same: ClassVar[str] = ""

    @abstractmethod
    def __call__(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Result:
        """The loss, or a generator that yields `Fuse` and returns the loss.

        Args:
            net: the model bound to its parameters: `net.mlm_head(...)`, `net.fuse(...)`,
                `net.attach("my_head", Head())`, `net.make_rng("objective")`.
            views: of the batch, those that it reads and perhaps more.
            batch: arrays by name, rows on axis 0.
        """
        ...

    def predict(self, net: Any, views: Any, batch: Mapping[str, Any]) -> Found | Asking:
        """What is predicted for each row, {name: [B ...]}: `{"logits": f32[B C]}`, say.

        Optional: the objective of a task has it. Its `__call__` makes the loss of these very
        arrays, its evaluator and whoever asks the model read them, so the three cannot differ. It
        reads nothing of the batch that only training has, such as the label. One that yields `Fuse`
        is `yield from self.predict(...)` in `__call__`.

        Raises:
            NotImplementedError: it has none.
        """
        raise NotImplementedError(
            f"{type(self).__module__} predicts nothing: its objective has no method `predict`"
        )


def predicted(net: Any, objective: Objective, views: Any, batch: Mapping[str, Any]) -> Found:
    """What `objective.predict` says; where it asks for fusion states, `net.fuse` gives them."""
    made = objective.predict(net, views, batch)
    if isinstance(made, dict):
        return made
    answer = None
    while True:
        try:
            asked = made.send(answer)
        except StopIteration as end:
            return end.value
        several = (asked,) if isinstance(asked, Fuse) else asked
        states = [net.fuse(**vars(each)) for each in several]
        answer = states[0] if isinstance(asked, Fuse) else states


def taught(batch: Mapping[str, Any], teacher: str, key: str, *, who: str, asks: str) -> Any:
    """The array `key` that a teacher says of the batch.

    Args:
        batch: with `teacher`, what teachers say.
        teacher: its name in the config.
        key: see `models.base.Model.targets`.
        who: the objective that asks, and `asks`, its options by which it does: for messages.

    Raises:
        ValueError: no such teacher sees the stream, or it does not teach that.
    """
    teachers = batch.get("teacher", {})
    if teacher not in teachers:
        raise ValueError(
            f"{who}: no teacher {teacher!r} teaches this stream; "
            f"those that do: {', '.join(teachers) or 'none'} (config.teachers.NAME.streams)"
        )
    if key not in teachers[teacher]:
        found = ", ".join(teachers[teacher]) or "nothing"
        raise ValueError(
            f"{who}: {asks} needs {key!r} of the teacher {teacher!r}, which gives {found}"
        )
    return teachers[teacher][key]


WIDTH = "numbers in a state (width)"  # what the last axis of states has


def check_alike(
    theirs: tuple[int, ...], mine: tuple[int, ...], last: str, teacher: str, *, who: str, asks: str
) -> None:
    """Refuses a teacher whose array has another shape than the student's.

    Args:
        theirs, mine: (rows, tokens, ..., numbers), of teacher and student.
        last: what the last axis has.
        teacher, who, asks: as in `taught`.

    Raises:
        ValueError: with both numbers.
    """
    if theirs == mine:
        return
    what, axis = (last, -1) if theirs[-1] != mine[-1] else ("tokens", 1)
    raise ValueError(
        f"{who}: the teacher {teacher!r} has {theirs[axis]} {what}, the student "
        f"{mine[axis]} ({asks}): they must be equal"
    )


def row_weights(batch: Mapping[str, Any], rows: int) -> jax.Array:
    """The batch's `weight` as f32[B], or ones. A row of weight 0 is padding and counts nowhere."""
    if "weight" not in batch:
        return jnp.ones(rows, jnp.float32)
    chex.assert_shape(batch["weight"], (rows,))
    return batch["weight"].astype(jnp.float32)


def weighted_mean(values: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean, denominator) of values f[...] with weights f[...] of the same shape.

    Values of weight 0 may be NaN or infinite; they change neither the mean nor its gradient, as
    long as their own gradient is finite. Without any weight the mean is 0.
    """
    chex.assert_equal_shape([values, weights])
    values = jnp.where(weights > 0, values.astype(jnp.float32), 0.0)
    total = jax.lax.stop_gradient(weights.sum())
    mean = (values * weights).sum() / jnp.where(total > 0, total, 1.0)
    return mean, total


def standardised(x: jax.Array, eps: float = 1e-6) -> jax.Array:
    """(x - mean) / sqrt(variance + eps) over the last axis, f32[... D] of x f[... D].

    The mean goes first: mean(x^2) - mean(x)^2 has no digits left for a bright, nearly even patch.
    """
    x = x.astype(jnp.float32)
    difference = x - x.mean(-1, keepdims=True)
    return difference * jax.lax.rsqrt(jnp.square(difference).mean(-1, keepdims=True) + eps)


def masked_word_loss(head: Any, x: jax.Array, ids: jax.Array, weights: jax.Array) -> Output:
    """Cross-entropy of masked words.

    Args:
        head: `head.cross_entropy(x, ids) -> (f32[B K], whether it is right bool[B K])`.
        x: f[B K D], states at the masked places.
        ids: i32[B K], the true words; -100 marks an unused slot.
        weights: f32[B].
    """
    chex.assert_rank(x, 3)
    chex.assert_shape(ids, x.shape[:2])
    chex.assert_shape(weights, x.shape[:1])
    used = ids != IGNORED
    loss, right = head.cross_entropy(x, jnp.where(used, ids, 0))
    slots = used * weights[:, None]  # f32[B K]
    mean, denominator = weighted_mean(loss, slots)
    accuracy, _ = weighted_mean(right, slots)
    return Output(loss=mean, denominator=denominator, metrics={"accuracy": accuracy})


def take_positions(x: jax.Array, positions: jax.Array) -> jax.Array:
    """States f[B K D] at positions i32[B K] of x f[B L D].

    Gathered before the head: logits over a large vocabulary at every position would be most of the
    memory of a step.
    """
    chex.assert_rank([x, positions], [3, 2])
    return jnp.take_along_axis(x, positions[..., None], axis=1)


def same_pair(batch: Mapping[str, Any], rows: int, by: str) -> jax.Array:
    """Which rows carry the same pair, bool[... B B], so that one is no negative of the other.

    Args:
        batch: with `example_id i32[... B]` for "ids", `text i32[... B L]` for "texts".
        rows: B.
        by: "row" = only a row itself; "ids" = rows of one `example_id`; "texts" = rows with the
            same tokens, as regions often have ("a dog").
    """
    if by == "ids":
        ids = batch["example_id"]
        return ids[..., :, None] == ids[..., None, :]
    if by == "texts":
        texts = batch["text"]
        return (texts[..., :, None, :] == texts[..., None, :, :]).all(axis=-1)
    return jnp.eye(rows, dtype=bool)
