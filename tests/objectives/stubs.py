"""A stand-in for the model, small enough to follow by hand, with matching views and batches."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.models.tiny_xfm import jit
from tests.tiny import Words
from unified_fm import joint
from unified_fm.models.views import ImageMemory, Views

WORDS = 7
WIDTH = 4


class Net:
    """Linear heads; fusion adds each text's image summary to its states."""

    def __init__(self, seed=0, temperature=0.5):
        rng = np.random.default_rng(seed)
        self.kernels = {n: jnp.asarray(rng.normal(size=(WIDTH, n)), jnp.float32) for n in (2, 4, 7)}
        self.temperature = temperature
        self.calls = []

    def text_feature(self, views):
        return views.text[:, 0]

    def image_feature(self, views):
        return views.pooled

    def clipped_temperature(self):
        return self.temperature

    def fuse(self, *, text, text_mask, memory, rows=None, view="row"):
        self.calls.append({"rows": rows, "text_mask": text_mask, "view": view})
        summary = memory.row_mask[:, None]
        return text + (summary if rows is None else summary[rows])

    def fuse_together(self, asked):
        calls = [{name: x for name, x in vars(each).items() if name != "key"} for each in asked]
        return [self.fuse(**call) for call in calls]

    @property
    def mlm_head(self):
        return Words(lambda x: x @ self.kernels[7])

    fusion_mlm_head = mlm_head

    def itm_head(self, x):
        return x @ self.kernels[2]

    def box_head(self, x):
        return jax.nn.sigmoid(x @ self.kernels[4])

    def make_rng(self, name):
        assert name == "objective"
        return jax.random.key(3)


def make_views(rows=4, length=5, seed=0):
    """Random views; `row_mask` of the memory holds the summary that `Net.fuse` adds."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    pooled = draw(rows, WIDTH)
    return Views(
        text=draw(rows, length, WIDTH),
        text_masked=draw(rows, length, WIDTH),
        image=draw(rows, 7, WIDTH),
        image_masked=draw(rows, 7, WIDTH),
        pooled=pooled,
        image_memory=ImageMemory(row_mask=pooled),
    )


def make_batch(rows=4, length=5, slots=2, seed=0):
    rng = np.random.default_rng(seed)
    positions = np.stack([rng.permutation(length)[:slots] for _ in range(rows)])
    masked_ids = rng.integers(0, WORDS, (rows, slots))
    masked_ids[0, 1] = -100
    return {
        "text_mask": jnp.ones((rows, length), bool),
        "masked_positions": jnp.asarray(positions),
        "masked_ids": jnp.asarray(masked_ids),
        "patch_mask": jnp.asarray(rng.random((rows, 6)).argsort(1) < 2),
        "box": jnp.asarray(rng.uniform(0.3, 0.6, (rows, 4)), jnp.float32),
        "is_image": jnp.arange(rows) == 1,
        "example_id": jnp.arange(rows),
    }


def value(objective, net, views, batch):
    """The output; what the objective asks the fusion encoder for is answered."""
    name = "stream", "objective"
    started = {name: objective(net, views, batch)}
    return joint.answered(started, {"stream": net}, {name: None}, joint=True)[name]


def run(objective, views=None, batch=None, **net):
    """The output in NumPy, and how `fuse` was called, in one compiled program."""
    views = make_views() if views is None else views
    batch = make_batch() if batch is None else batch
    seen = []

    def call(views, batch):
        stub = Net(**net)
        output = value(objective, stub, views, batch)
        seen.extend(call.pop("view") for call in stub.calls)
        return output, stub.calls

    output, calls = jax.device_get(jit(call)(views, batch))
    return output, [call | {"view": view} for call, view in zip(calls, seen, strict=True)]


def gradient(loss, *args, argnums=0):
    """(value, gradient) in NumPy, compiled."""
    return jax.device_get(jit(jax.value_and_grad(loss, argnums=argnums))(*args))


def rows_of(tree, rows):
    """The same rows of every array of views or of a batch."""
    return jax.tree.map(lambda x: x[rows], tree)


def cross_entropy(logits, label):
    """In NumPy, of one row."""
    logits = np.asarray(logits, np.float64)
    return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label]


def build_scores(net, views, batch):
    """Scores f[B K V] of the language head at the masked positions, row by row."""
    rows = zip(views.text_masked, batch["masked_positions"], strict=True)
    return np.stack([np.asarray(states[positions] @ net.kernels[7]) for states, positions in rows])
