"""The UFM ablation at a micro size: every arm end to end, its statistics and its sentences."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import scipy.stats

from experiments.ufm_ablation import (
    arms,
    conclusions,
    corpus,
    finetune,
    learner,
    outcome,
    pretrain,
    statistics,
    store,
)
from experiments.ufm_ablation.run import NAMES, Experiment
from experiments.ufm_ablation.sizes import Sizes, of_budget
from unified_fm import step as steps
from unified_fm.config import chosen
from unified_fm.optim import masks
from unified_fm.teachers import cache as teacher_cache

WORDS, TOKENS, HIDDEN, SIDE = 30, 8, 2, 8
MICRO = Sizes(
    **dict(seeds=2, steps=20, batch=4, width=16, layers=1, heads=2, image_size=SIDE, patch_size=4),
    **dict(max_len=TOKENS, max_masked=HIDDEN, teacher_width=16, teacher_layers=1, teacher_steps=2),
    **dict(top=4, labelled=6, tune_steps=2, tune_batch=4),
)


def tiny_corpus(sizes=MICRO):
    rng = np.random.default_rng(0)

    def images(count, classes):
        labels = np.arange(count, dtype=np.int32) % classes
        pixels = rng.integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.uint8)
        return {"image": pixels, "label": labels}

    def texts(count):
        ids = rng.integers(5, WORDS, (count, TOKENS)).astype(np.int32)
        at = np.tile(np.array([1, 3], np.int32), (count, 1))
        masked = ids.copy()
        masked[:, [1, 3]] = 4
        return {
            **{"text": ids, "text_mask": np.ones(ids.shape, bool), "text_masked": masked},
            **{"masked_positions": at, "masked_ids": ids[:, [1, 3]]},
        }

    def sentences(count):
        rows = {key: texts(count)[key] for key in ("text", "text_mask")}
        return {**rows, "label": np.arange(count, dtype=np.int32) % 2}

    special = np.arange(WORDS) < 5
    return corpus.make(
        {"train": images(24, 3), "test": images(9, 3)},
        {"train": texts(24), "test": texts(9)},
        {"train": images(12, 3), "test": images(9, 3)},
        {"train": sentences(12), "test": sentences(9)},
        special,
    )


def tree_differences(one, two):
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(abs(a - b).max()), one, two)))


@pytest.fixture(autouse=True, scope="module")
def _compile_quickly():
    """Half the time of compilation; the programs are small."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def check_runs_once(folder, names, trained):
    first = Experiment(folder, MICRO, load=tiny_corpus)
    results = first.run(names)
    assert sorted(first.trained) == sorted(trained)
    assert all(len(v) == 2 for r in results.values() for v in r["scores"].values())
    second = Experiment(folder, MICRO, load=tiny_corpus)
    assert second.run(names) == results
    assert second.trained == []
    return results


def test_an_arm_is_run_once_and_not_with_other_settings(tmp_path):
    results = check_runs_once(tmp_path, ["vit_only"], ["vit_only"])
    assert set(results["vit_only"]["scores"]) == {"image_loss", "image_accuracy", "digits"}
    params = store.params(tmp_path / "vit_only")
    assert params["encoder"]["layer_00"]["mlp_in"]["kernel"].shape == (2, 16, 64)
    changed = dataclasses.replace(MICRO, lr=0.5)
    with pytest.raises(ValueError, match=r"lr: 0\.003 there, 0\.5 now"):
        Experiment(tmp_path, changed, load=tiny_corpus).run(["vit_only"])


def test_teachers_say_once_what_students_read(tmp_path):
    data, size = tiny_corpus(), 24
    caches = {name: tmp_path / name for name in pretrain.TEACHERS}
    for name, stream in pretrain.TEACHERS.items():
        made = learner.Learner(arms.teacher_config(name, MICRO, data), (7,))
        rows = pretrain.rows(data, stream, "train")
        params = made.init({stream: {key: x[None, :4] for key, x in rows.items()}})
        pretrain.write_cache(caches[name], name, params, MICRO, data)
        live = made.model.apply(
            {"params": jax.tree.map(lambda x: x[0], params)}, rows, method="targets"
        )
        key = {"vit": "image", "bert": "mlm"}[name]
        cached = teacher_cache.open_cache(caches[name]).rows(stream, np.arange(size))
        said = np.take_along_axis(np.asarray(live[key]), cached[key]["ids"], -1)
        k = said.shape[-1]
        np.testing.assert_allclose(cached[key]["logits"][..., :k], said, atol=1e-5)
        assert cached[key]["ids"].shape[-1] == {"vit": 3, "bert": MICRO.top}[name]
        np.testing.assert_allclose(cached[key]["logits"].max(-1), live[key].max(-1), atol=1e-5)
        if name == "bert":  # the rest is one lump, at the temperature of the words
            shares = np.exp(live[key] / MICRO.text_temperature)
            rest = shares.sum(-1) - np.take_along_axis(shares, cached[key]["ids"], -1).sum(-1)
            np.testing.assert_allclose(np.exp(cached[key]["rests"]["kl at T=2.0"]), rest, rtol=1e-4)

    made = learner.Learner(arms.config("joint_kd_igm", MICRO, data, caches), (0, 1))
    opened = {name: teacher_cache.open_cache(folder) for name, folder in caches.items()}
    batches = next(pretrain._batches(data, pretrain.STREAMS, MICRO, opened))
    assert batches["image"]["cached"]["vit"]["image"]["ids"].shape == (2, 4, 3)
    names = set(made.prepared(batches).metric_names)
    assert {"image/distill", "text/distill", "image/classify", "text/mlm"} <= names


@pytest.mark.slow
def test_all_arms_run_once(tmp_path):
    results = check_runs_once(tmp_path, NAMES, [*NAMES, "vit", "bert"])
    assert "text_loss" not in results["vit_only"]["scores"]
    assert "digits" not in results["bert_only"]["scores"]
    # The arms are what they are called: the same start and data, another end.
    ends = [results[name]["scores"]["text_loss"][0] for name in arms.ARMS if name != "vit_only"]
    assert len(set(ends)) == len(ends)
    assert outcome.write(tmp_path, results, Experiment(tmp_path, MICRO, load=tiny_corpus))


@pytest.mark.parametrize("name", [n for n, arm in arms.ARMS.items() if not arm.distil])
def test_the_update_of_every_arm_is_its_own_merge(name):
    params = {"encoder": {"layer_00": {"kernel": np.array([[3.0, 4.0], [0.0, 0.0]])}}}
    image = {"encoder": {"layer_00": {"kernel": np.array([[1.0, 0.0], [0.0, 1.0]])}}}
    text = {"encoder": {"layer_00": {"kernel": np.array([[-1.0, 2.0], [0.0, 0.0]])}}}
    settings = arms.config(name, MICRO, tiny_corpus(), {})
    merge = chosen.merge(settings, settings.total_steps)
    grads = {"image": image, "text": text}
    grads = {stream: grads[stream] for stream in arms.ARMS[name].streams}
    state = merge.init(params)
    for step in range(20):  # past the masks' warm-up and ramp
        state = merge.refresh(state, step) if merge.refresh else state
        found, state = merge.update(grads, state, params)
    kernel = np.asarray(found["encoder"]["layer_00"]["kernel"])
    expected = {
        "vit_only": [[1, 0], [0, 1]],
        "bert_only": [[-1, 2], [0, 0]],
        "joint": [[0, 2], [0, 1]],
        # g_v . g_t = -1: each loses its component, 1/5 of g_t and 1/2 of g_v.
        "joint_pcgrad": [[1 - 1 / 5 - 1 + 1 / 2, 2 / 5 + 2], [0, 1 + 1 / 2]],
        # Text keeps the two entries of its largest gradients, image has the others.
        "joint_igm": [[-1, 2], [0, 1]],
        # Image owns; its ties go in index order: it keeps the first and the last.
        "joint_igm_swapped": [[1, 2], [0, 1]],
        "joint_static_image": [[1.6 - 0.4, 0.8], [0, 1.6]],
        "joint_static_text": [[0.4 - 1.6, 3.2], [0, 0.4]],
    }
    if name == "joint_igm_random":
        owned = np.asarray(masks.find((state,)).mask["encoder"]["layer_00"]["kernel"])
        assert owned.sum() == 2
        expected[name] = np.where(owned, [[-1, 2], [0, 0]], [[1, 0], [0, 1]])
    np.testing.assert_allclose(kernel, expected[name], atol=1e-6)


class _Known:
    """Stands for an experiment whose teachers and floors are known."""

    def teachers(self):
        scores = {"image_loss": 0.5, "image_accuracy": 0.8, "text_loss": 5.5, "text_accuracy": 0.2}
        return {name: {**_result(scores), "settings": {}} for name in ("vit", "bert")}

    def floors(self):
        return {"image_loss": 4.0, "text_loss": 6.2, "digits": 0.1, "sentiment": 0.5}


def _result(scores):
    return {"scores": scores, "seconds": 60.0, "commit": "abc", "device": "1 x cpu"}


def test_outcome_is_written_and_published(tmp_path):
    rng, results = np.random.default_rng(0), {}
    for name in NAMES:
        streams = arms.ARMS[name].streams if name in arms.ARMS else ("image", "text")
        keys = [key for key, metric in conclusions.METRICS.items() if metric.stream in streams]
        keys += [f"{stream}_accuracy" for stream in streams]
        scores = {key: rng.uniform(0.4, 0.5, 3).tolist() for key in keys}
        results[name] = {**_result(scores), "settings": {"lr": 1.0}}
    assert outcome.write(tmp_path, results, _Known())
    joint = json.loads((tmp_path / "results.json").read_text())["summary"]["joint"]["digits"]
    assert joint["mean"] == pytest.approx(np.mean(results["joint"]["scores"]["digits"]))
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")

    (tmp_path / "to").mkdir()
    begin, end = "<!-- results: written by --publish -->", "<!-- end of results -->"
    (tmp_path / "to" / "README.md").write_text(f"# Title\n\n{begin}\nPREVIOUS\n{end}\n\nLimits.\n")
    outcome.publish(tmp_path, ["--workdir=runs/x"], tmp_path / "to")
    text = (tmp_path / "to" / "README.md").read_text()
    assert text.startswith("# Title") and text.endswith("Limits.\n") and "PREVIOUS" not in text
    assert "--workdir=runs/x`. Commit: `abc`. Seeds: 0 to 2" in text
    assert "| joint_kd_igm |" in text and str(tmp_path) not in text
    assert sorted(p.name for p in (tmp_path / "to" / "results").iterdir()) == sorted(outcome.FILES)

    del results["joint_kd"]
    assert not outcome.write(tmp_path, results, _Known())  # no conclusions of a part


def test_an_interrupted_arm_is_made_again(tmp_path):
    folder = tmp_path / "joint"
    store.keep(folder, {"a": np.ones(2, np.float32)}, {"scores": {}}, {"lr": 1.0})
    (folder / "result.json").unlink()
    assert store.result(folder, {"lr": 1.0}) is None
    store.keep(folder, {"a": {"b": np.ones((2, 3), np.float32)}}, {"scores": {}}, {"lr": 1.0})
    np.testing.assert_array_equal(store.params(folder)["a"]["b"], np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"lr: 1\.0 there, absent now"):
        store.result(folder, {})


@pytest.mark.parametrize("mapping", ["vmap", "map"])
def test_seeds_at_once_are_seeds_one_by_one(mapping):
    rng = np.random.default_rng(0)
    words = rng.integers(5, WORDS, (4, 2, 3, 6)).astype(np.int32)  # [steps S B L]
    both = [{"image": {"text": w, "text_masked": w}, "text": {"text": w + 1, "text_masked": w}}
            for w in words]  # fmt: skip
    config = arms.config("joint_igm", MICRO, tiny_corpus(), {})
    ramp = {"shared": "text/.*", "score": "random", "t0": 1, "t1": 2, "dt": 1}
    streams = {
        name: config.streams[name].replace(objectives={kind: {"name": "tests.tiny", "kind": kind}})
        for name, kind in (("image", "mean"), ("text", "spread"))
    }
    config = config.replace(
        total_steps=4,
        merge={**config.merge, **ramp},
        model={"name": "tests.tiny", "vocab_size": WORDS + 1, "dropout": 0.5},
        streams=streams,
    )
    many = learner.Learner(config, (0, 1), mapping=mapping)
    start = many.init(both[0])
    trained = many.train(start, both, "both").params

    # The library's own step on seed 1, without any of ours.
    one = jax.tree.map(lambda x: x[1], both)
    config = config.replace(seed=1, merge={**config.merge, "seed": 1})
    ready = many.prepared(both[0])
    ready = dataclasses.replace(
        ready, settings=config, program=dataclasses.replace(ready.program, seed=1)
    )
    program = ready.program
    params = steps.init_params(program, {}, one[0])
    assert tree_differences(jax.tree.map(lambda x: x[1], start), params) < 1e-6
    tx, refresh = ready.optimizer, ready.refresh
    state, step = steps.init_state(params, tx, ema=False), steps.make_train_step(program, tx)
    for number, batch in enumerate(one):
        state = state.replace(opt_state=refresh(state.opt_state, number))
        state, _ = step(state, {}, batch)
    assert tree_differences(jax.tree.map(lambda x: x[1], trained), state.params) < 1e-6
    assert tree_differences(trained, start) > 1e-3
    assert tree_differences(*(jax.tree.map(lambda x, i=i: x[i], trained) for i in (0, 1))) > 1e-3


def test_random_masks_differ_between_seeds():
    data = tiny_corpus()
    made = learner.Learner(arms.config("joint_igm_random", MICRO, data, {}), (0, 1))
    batch = {
        s: {k: np.stack([x[:4], x[:4]]) for k, x in pretrain.rows(data, s, "train").items()}
        for s in ("image", "text")
    }
    params = made.init(batch)
    keys = []
    for seed in made.seeds:
        tx = made._seeded(made.prepared(batch), seed).optimizer
        one = jax.tree.map(lambda x: x[0], params)
        keys.append(masks.find(tx.init(one)).key.tolist())
    assert keys[0] != keys[1]


def test_few_labels_are_balanced_and_of_the_seed():
    labels = np.repeat(np.arange(3), 20)
    chosen = finetune.few(labels, 6, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [2, 2, 2]
    assert len(set(chosen.tolist())) == 6
    assert chosen.tolist() != finetune.few(labels, 6, seed=1).tolist()


def test_every_seed_has_its_own_order_in_whole_epochs():
    order = corpus.order(6, seeds=2, steps=4, batch=3, stream=0)
    assert order.shape == (4, 2, 3)
    for seed in (0, 1):
        epochs = order[:, seed].reshape(2, 6)
        assert [sorted(epoch) for epoch in epochs.tolist()] == [[0, 1, 2, 3, 4, 5]] * 2
    assert order[:, 0].tolist() != order[:, 1].tolist()


def test_transplant_takes_all_but_the_head():
    fresh = {"ufm": {"encoder": {"kernel": np.zeros(2)}}, "head": np.zeros(3)}
    pretrained = {"encoder": {"kernel": np.ones(2)}, "mlm_head": np.ones(4)}
    found = finetune.transplant(fresh, pretrained)
    assert found["ufm"]["encoder"]["kernel"].tolist() == [1, 1]
    assert found["head"].tolist() == [0, 0, 0]
    with pytest.raises(KeyError, match="encoder/kernel"):
        finetune.transplant(fresh, {"encoder": {}})


def test_intervals_are_those_of_scipy():
    values, others = [1.0, 2.0, 4.0, 5.0], [0.5, 2.5, 3.0, 3.0]
    found = statistics.interval(values)
    low, high = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((3.0, low, high))
    paired = statistics.paired(values, others)
    low, high = scipy.stats.ttest_rel(values, others).confidence_interval(0.95)
    assert (paired.mean, paired.low, paired.high) == pytest.approx((0.75, low, high))
    assert not paired.excludes_zero
    # By hand: mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.3027.
    assert statistics.interval([1.0, 2.0, 3.0]).high == pytest.approx(2 + 4.3027 / 3**0.5, abs=1e-4)
    with pytest.raises(ValueError, match="at least 2"):
        statistics.interval([1.0])


def test_sentences_have_the_direction_of_the_metric():
    scores = {
        "a": {"digits": [0.70, 0.71, 0.72], "text_loss": [5.0, 5.1, 5.2]},
        "b": {"digits": [0.60, 0.62, 0.61], "text_loss": [4.0, 4.1, 4.3]},
        "c": {"digits": [0.69, 0.73, 0.72], "text_loss": [5.1, 5.0, 5.2]},
    }
    assert conclusions.sentence("a", "b", "digits", scores).startswith(
        "digits, fine-tuned: `a` is better than `b` by 10.00 points [+7.52, +12.48]"
    )
    assert "`a` is worse than `b` by 0.9667 [" in conclusions.sentence(
        "a", "b", "text_loss", scores
    )
    same = conclusions.sentence("a", "c", "digits", scores)
    assert "no difference between `a` and `c` that 3 seeds can show (-0.33 points [" in same


def test_budgets():
    assert of_budget("short", {"width": 8}).width == 8
    assert of_budget("short", {}).steps < of_budget("full", {}).steps
    with pytest.raises(ValueError, match="possible: full, short"):
        of_budget("long", {})
    with pytest.raises(ValueError, match="at least 2"):
        of_budget("full", {"seeds": 1})
