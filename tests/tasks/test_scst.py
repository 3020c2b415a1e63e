"""Self-critical training: the gradient of an expected reward, by draws."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests import loop_runs
from tests.models.tiny_xfm import jit
from tests.tasks import finetuning, writers
from tests.tasks.test_captioning import example, pipeline
from unified_fm.data.official import WrongFile
from unified_fm.plugins import build
from unified_fm.tasks import scst
from unified_fm.tasks._metrics import caption_reward, cider
from unified_fm.tasks._metrics.ngrams import load_frequencies

REWARD = np.array([[1.0, -2.0], [0.5, 3.0]])  # of the texts 00, 01, 10, 11
LOGITS = jnp.array([0.3, -0.4, 0.8])  # of 1: first, after 0, after 1


def losses_of(logits, texts):
    """-log p f[B K 2] of texts i32[B K 2] of a policy over two tokens."""
    first, second = texts[..., 0], texts[..., 1]
    each = jnp.stack([logits[0] + 0.0 * first, logits[1 + first]], axis=-1)
    return jax.nn.softplus(jnp.where(jnp.stack([first, second], -1) == 1, -each, each))


def expected_reward(logits):
    texts = jnp.array(list(itertools.product([0, 1], repeat=2)))
    share = jnp.exp(-losses_of(logits, texts[None]).sum(-1))[0]
    return (share * jnp.asarray(REWARD).ravel()).sum()


def loss_of(logits, texts, advantages):
    mask = jnp.ones(texts.shape, bool)
    return scst.policy_loss(losses_of(logits, texts), mask, advantages).mean()


def test_the_gradient_is_that_of_the_expected_reward():
    """One draw of each text, weighted by its probability: the sum over all draws."""
    texts = np.array(list(itertools.product([0, 1], repeat=2)))[:, None]  # i32[4 1 2]
    share = np.exp(-np.asarray(losses_of(LOGITS, texts)).sum((1, 2)))
    reward = REWARD.ravel()[:, None]

    def total(logits):
        each = [loss_of(logits, texts[k : k + 1], reward[k : k + 1]) for k in range(4)]
        return sum(s * loss for s, loss in zip(share, each, strict=True))

    np.testing.assert_allclose(
        jit(jax.grad(total))(LOGITS), -jit(jax.grad(expected_reward))(LOGITS), rtol=1e-5
    )


@pytest.mark.parametrize("baseline", ["mean", "constant"])
def test_a_baseline_does_not_change_the_expected_gradient(baseline):
    """Over all pairs of draws of one image."""
    texts = np.array(list(itertools.product([0, 1], repeat=2)))
    pairs = np.array(list(itertools.product(range(4), repeat=2)))  # i[16 2]
    share = np.exp(-np.asarray(losses_of(LOGITS, texts[None])).sum(-1))[0]
    reward = REWARD.ravel()[pairs]  # f[16 2]
    other = reward[:, ::-1] if baseline == "mean" else np.full_like(reward, 7.0)

    def total(logits, b):
        mask = jnp.ones((*pairs.shape, 2), bool)
        each = scst.policy_loss(losses_of(logits, texts[pairs]), mask, reward - b)
        return (share[pairs].prod(1) * each).sum()

    gradient = jit(jax.grad(total))
    np.testing.assert_allclose(
        gradient(LOGITS, other), gradient(LOGITS, np.zeros_like(reward)), atol=1e-6
    )
    assert np.abs(gradient(LOGITS, other)).max() > 0.01


def test_what_follows_the_end_counts_nowhere_and_a_mean_over_tokens_is_possible():
    losses = jnp.array([[[1.0, 2.0, 4.0], [3.0, 100.0, 100.0]]])
    ids = jnp.array([[[5, 6, 7], [9, 9, 9]]])
    mask = scst.written(ids, end=9)
    assert mask.tolist() == [[[True] * 3, [True, False, False]]]
    advantages = jnp.array([[2.0, -1.0]])
    assert scst.policy_loss(losses, mask, advantages).tolist() == [(2 * 7 - 3) / 2]
    found = scst.policy_loss(losses, mask, advantages, per_token=True)
    assert found[0] == pytest.approx((2 * 7 / 3 - 3) / 2)


def test_the_expected_reward_rises():
    def step(logits, key):
        first = jax.random.bernoulli(jax.random.fold_in(key, 0), jax.nn.sigmoid(logits[0]), (8, 5))
        first = first.astype(int)
        second = jax.random.bernoulli(
            jax.random.fold_in(key, 1), jax.nn.sigmoid(logits[1 + first])
        ).astype(int)
        texts = jnp.stack([first, second], -1)
        reward = jnp.asarray(REWARD)[first, second]
        others = (reward.sum(1, keepdims=True) - reward) / 4
        return logits - 0.5 * jax.grad(loss_of)(logits, texts, reward - others)

    def run(logits):
        keys = jax.random.split(jax.random.key(0), 60)
        return jax.lax.scan(lambda x, key: (step(x, key), expected_reward(x)), logits, keys)[1]

    found = np.asarray(jit(run)(LOGITS))
    assert found[0] < 1.2
    assert found[-1] > 2.7  # the best text has 3


def test_the_reward_is_cider_by_the_training_sets_frequencies():
    train = [["a red dog runs", "the dog"], ["a cat sits"], ["a man in the sun"]]
    corpus = caption_reward.training_frequencies(train)
    reward = scst.Reward(writers.BYTES, corpus)
    made = pipeline(references=2)(example(train[0]), np.random.default_rng(0))
    end = writers.BYTES.sep_id
    said = ["a red dog runs", "the dog", "a red dog in"]
    ids = np.full((1, 3, 20), end)
    for row, text in zip(ids[0], said, strict=True):
        row[: len(text)] = list(writers.BYTES.encode(text, 40).ids[1 : len(text) + 1])
    ids[0, 2, 12:] = writers.BYTES.encode(" " * 8, 20).ids[1]  # is cut: it never ends
    found = reward(ids, made["references"][None])
    truth = [text.split() for text in train[0]]
    ended = [[*words, "</s>"] for words in truth]
    expected = cider.scores(
        [[*said[0].split(), "</s>"], [*said[1].split(), "</s>"], said[2].split()],
        [ended] * 3,
        corpus,
    )
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    plain = scst.Reward(writers.BYTES, corpus, ends=False)(ids, made["references"][None])
    without = cider.scores([text.split() for text in said], [truth] * 3, corpus)
    np.testing.assert_allclose(plain[0], without, rtol=1e-6)
    assert (reward(ids, 0 * made["references"][None]) == 0).all()


def test_frequencies_are_known_by_their_hash_and_never_a_pickle(tmp_path):
    corpus = caption_reward.training_frequencies([["a dog"], ["a cat"]])
    corpus.save(tmp_path / "df.json")
    assert load_frequencies(tmp_path / "df.json").counts[("dog", "</s>")] == 1
    made = scst._reward(str(tmp_path / "df.json"), corpus.hash, writers.BYTES, True)
    assert made.corpus == corpus
    with pytest.raises(ValueError, match=f"has the hash {corpus.hash}, frequencies_hash is abc"):
        scst._reward(str(tmp_path / "df.json"), "abc", writers.BYTES, True)
    with pytest.raises(WrongFile, match="is a pickle"):
        scst._reward("coco-train-words.p", "", writers.BYTES, True)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(options of the objective, a batch of two images)."""
    path = tmp_path_factory.mktemp("scst") / "df.json"
    texts = [["a b c", "a c"], ["b b a", "c a b"], ["c"]]
    caption_reward.training_frequencies(texts).save(path)
    rng = np.random.default_rng(4)
    made = [
        pipeline(references=2)(
            example(text) | {"image": rng.integers(0, 255, (16, 16, 3), np.uint8)}, rng
        )
        for text in texts[:2]
    ]
    batch = {name: jnp.asarray(np.stack([each[name] for each in made])) for name in made[0]}
    options = {
        "frequencies": str(path),
        "samples": 3,
        "max_new_tokens": 4,
        "tokenizer": writers.BYTES,
    }
    return options, batch


def reward_by_sum(monkeypatch):
    """A reward that every caption has some of; returns the captions that it is asked about."""
    seen = []

    def reward(ids, references):
        del references
        seen.append(np.asarray(ids))
        return seen[-1].sum(-1).astype(np.float32) % 7

    monkeypatch.setattr(scst, "_reward", lambda *_: reward)
    return seen


@pytest.mark.parametrize(
    "baseline",
    ["mean", pytest.param("greedy", marks=pytest.mark.slow)],  # two loops compile
)
def test_the_loss_is_that_of_the_captions_that_were_drawn(world, baseline, monkeypatch):
    """The drawn captions are read in the callback, and scored again by hand."""
    options, batch = world
    objective = build("objectives", "scst", **options, baseline=baseline)
    params = writers.params(objective, batch)
    seen = reward_by_sum(monkeypatch)
    rngs = {"objective": jax.random.key(5)}
    found = writers.ask(writers.value(objective), params, batch, **rngs)
    ids = seen[-1]
    rewards = ids.sum(-1).astype(np.float32) % 7
    drawn, known = ids[:, :3], batch["prompt"].shape[1]
    assert ids.shape == (2, 3 + (baseline == "greedy"), 4)
    b = (rewards.sum(1, keepdims=True) - rewards) / 2 if baseline == "mean" else rewards[:, 3:]

    def logits(net, batch):
        decoder = net.attach("caption_decoder", net.text_decoder())
        told = jnp.concatenate([jnp.repeat(batch["prompt"][:, None], 3, 1), drawn], -1)
        memory = net(batch).image
        return decoder.logits(decoder(told[..., :-1], scst.ImageMemory(image=memory)))

    scores = np.array(writers.ask(logits, params, batch), np.float64)[:, :, known - 1 :]
    scores[..., list(objective.never(270))] = -np.inf
    log_p = np.take_along_axis(writers.log_softmax(scores), drawn[..., None], -1)[..., 0]
    ends = drawn == writers.BYTES.sep_id
    mask = np.cumsum(ends, -1) - ends == 0
    each = -((rewards[:, :3] - b) * np.where(mask, log_p, 0).sum(-1)).mean(-1)
    assert found.loss == pytest.approx(each.mean(), rel=1e-4)
    assert found.metrics["reward"] == pytest.approx(rewards[:, :3].mean(), rel=1e-5)
    assert found.metrics["length"] == pytest.approx(mask.sum(-1).mean())
    assert len({tuple(text) for text in drawn.reshape(6, -1)}) > 1


def test_the_same_key_draws_the_same_and_the_gradient_reaches_the_captioner(world, monkeypatch):
    reward_by_sum(monkeypatch)
    options, batch = world
    objective = build("objectives", "scst", **options)
    params = writers.params(objective, batch)
    call = writers.learnt(objective)
    (one, grads), (two, _), (other, _) = (
        jax.device_get(call(params, batch, {"objective": jax.random.key(k)})) for k in (1, 1, 2)
    )
    assert one == two != other
    assert writers.parts(grads) == {"caption_decoder", "patch_embed", "vision"}


@pytest.mark.nightly  # three runs
def test_a_resumed_run_is_the_one_that_went_through(tmp_path, monkeypatch):
    reward_by_sum(monkeypatch)
    finetuning.write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    told = ["report=False", "log.every=1", "optimizer.lr=0.01", "checkpoint.best=None"]
    told += ["evaluate.every=0", "evaluate.at_end=False"]
    told += ["optimizer.schedule.name=constant", "optimizer.schedule.warmup=0"]
    with finetuning.quick(monkeypatch):
        for folder, steps in (("parts", 1), ("parts", 3), ("whole", 3)):
            changes = (*told, f"total_steps={steps}")
            assert finetuning.train("captioning:scst,smoke", tmp_path / folder, *changes) == 0
    loop_runs.same_params(tmp_path / "parts", tmp_path / "whole")
    one, last = (finetuning.metrics(tmp_path / "whole")[step] for step in (1, 3))
    assert one["task/scst/reward"] > 0
    assert one["param_norm"] != last["param_norm"]


@pytest.mark.nightly  # two programs of a whole model, one for eight devices
def test_eight_devices_draw_and_learn_what_one_does(world, monkeypatch):
    reward_by_sum(monkeypatch)
    options, batch = world
    objective = build("objectives", "scst", **options)
    params = writers.params(objective, batch)
    batch = {name: jnp.concatenate([array] * 4) for name, array in batch.items()}

    def loss(params, batch):
        rngs = {"objective": jax.random.key(0)}
        bound = nn.apply(writers.value(objective), writers.NET)
        found = bound({"params": params}, batch, rngs=rngs)
        return found.loss, found.metrics

    def on(devices):
        axis = (jax.sharding.AxisType.Auto,)
        mesh = jax.make_mesh((devices,), ("data",), axis, devices=jax.devices()[:devices])
        rows, copies = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
        step = jit(jax.value_and_grad(loss, has_aux=True))
        given = jax.device_put(params, copies), jax.device_put(batch, rows)
        return jax.device_get(step(*given))

    (one, metrics), gradient = on(1)
    (eight, others), shared = on(8)
    assert eight == pytest.approx(one, rel=1e-4)
    assert others["reward"] == pytest.approx(metrics["reward"], rel=1e-6)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(shared), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-4 * np.abs(a).max() + 1e-6)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"samples": 1}, "samples is 1; baseline='mean' needs at least 2"),
        ({"baseline": "gredy"}, "did you mean 'greedy'"),
        ({"label_smoothing": 0.1}, "there are no labels here"),
    ],
)
def test_options_that_cannot_be_are_refused(options, fault):
    with pytest.raises(ValueError, match=fault):
        build("objectives", "scst", frequencies="df.json", **options)


def test_a_stream_without_references_is_refused():
    with pytest.raises(ValueError, match="set the option references"):
        build("objectives", "scst", frequencies="f.json")(None, None, {"prompt": None})
