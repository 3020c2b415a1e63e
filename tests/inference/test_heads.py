"""Heads of tasks: what they say of an item is what their objective predicts of its arrays."""

import jax
import numpy as np
import pytest

import unified_fm
from tests.inference import runs
from unified_fm import setup, step
from unified_fm.checkpoint import store
from unified_fm.config import saved
from unified_fm.config.settings import Settings
from unified_fm.data.streams import stream
from unified_fm.inference import heads, questions
from unified_fm.inference.abilities import NotTrained
from unified_fm.inference.items import BadItem
from unified_fm.page import tabs

IMAGES = [runs.picture(name) for name in runs.COLOURS]


def make(folder, pipeline, learnt, **options):
    """A run of one task, and the model that is loaded of it."""

    def task(data):
        (data / "answers.json").write_text('["yes", "no", "red"]')
        given = dict(options)
        if "answers" in given:
            given["answers"] = str(data / given["answers"])
        entry = stream(pipeline, f"jsonl:{data}/records.jsonl", 4, learnt, **given)
        return {"streams": {"task": entry}}

    workdir = runs.make(folder, task)
    model = unified_fm.load(workdir, batch_size=4, devices=jax.devices()[:1])
    settings = Settings.of(saved.read(workdir, ()))
    program = setup.prepare(settings, shapes={}).program
    predictions = step.make_predictions(program)
    params = store.load_params(workdir)

    def predict(batch):
        name = next(iter(learnt))
        return {k: np.asarray(x) for k, x in predictions("task", name, params, batch).items()}

    return model, predict


def arrays(model, item):
    """What the pipeline makes of an item, as a batch of one."""
    head = model._parts.heads[0]
    return {name: array[None] for name, array in heads.arrays_of(head, item).items()}


def softmax(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def agrees(found, names, logits):
    shares = dict(zip(names, softmax(logits), strict=True))
    assert [name for name, _ in found] == sorted(names, key=shares.get, reverse=True)
    np.testing.assert_allclose([x for _, x in found], [shares[n] for n, _ in found], atol=1e-5)


@pytest.mark.slow
def test_two_images_and_a_sentence(tmp_path):
    pixels = {"size": 16, "patch_size": 8, "max_len": 12}
    model, predict = make(tmp_path, "nlvr2", {"nlvr2": 1.0}, **pixels)
    assert questions.possible(model) == ["--task=classify", "--task=encode"]
    assert len(tabs.absent(model)) == len(tabs.NAMES)
    item = ((IMAGES[0], IMAGES[1]), "a red square")
    batch = arrays(model, item)
    assert batch["images"].shape == (1, 2, 16, 16, 3) and "label" not in batch
    names = ["False", "True"]
    agrees(model.classify(item), names, predict(batch)["logits"][0])
    several = [item, ((IMAGES[2], IMAGES[2]), "a blue square"), {"images": IMAGES[:2], "text": "a"}]
    found = model.classify(several)
    agrees(found[0], names, predict(batch)["logits"][0])
    assert len(found) == 3
    with pytest.raises(BadItem, match=r"items\[1\].*not two images"):
        model.classify([item, IMAGES[0]])
    assert model.classify([item, IMAGES[0]], on_error="skip")[1] is None


def test_texts_and_pairs_of_texts(tmp_path):
    def sentences(data):
        source = data / "rte.jsonl"
        line = '{"sentences": ["a red square", "it is red"], "label": 1}\n'
        source.write_text(line * 4)
        learnt = {"glue": {"task": "rte"}}
        entry = stream("glue", f"jsonl:{source}", 4, learnt, task="rte", max_len=20)
        return {"streams": {"task": entry}}

    workdir = runs.make(tmp_path, sentences)
    model = unified_fm.load(workdir, batch_size=4, devices=jax.devices()[:1])
    [found] = model.classify([("a red square", "it is red")])
    assert sorted(name for name, _ in found) == ["entailment", "not_entailment"]
    assert sum(share for _, share in found) == pytest.approx(1)
    assert model.classify({"sentences": ["a red square", "it is red"]}) == found


def test_classes_of_images_are_read_as_they_were_evaluated(tmp_path):
    options = {"size": 16, "patch_size": 8, "fit": "centre", "centre": 0.5}
    learnt = {"image_classification": {"classes": 2}}
    model, predict = make(tmp_path, "image_classification", learnt, **options)
    batch = arrays(model, IMAGES[0])
    # The middle half of the picture: no class names are known, so numbers stand for them.
    agrees(model.classify(IMAGES[0]), ["0", "1"], predict(batch)["logits"][0])
    seen = model._parts.preprocessing.resized(IMAGES[0])
    np.testing.assert_array_equal(seen, batch["image"][0])
    with pytest.raises(NotTrained, match="no common space"):
        model.classify(IMAGES[0], ["red", "blue"])


@pytest.mark.slow
def test_answers_are_chosen_from_the_list_of_the_run(tmp_path):
    options = {"size": 16, "patch_size": 8, "max_len": 12, "classes": 3, "answers": "answers.json"}
    model, predict = make(tmp_path, "vqa", {"vqa": {"classes": 3}}, **options)
    (tmp_path / "data" / "answers.json").unlink()
    assert "answer" in model.tasks and "classify" not in model.tasks
    batch = arrays(model, (IMAGES[0], "is it red?"))
    logits = predict(batch)["logits"][0]
    shares = dict(zip(["yes", "no", "red"], 1 / (1 + np.exp(-logits)), strict=True))
    found = model.answer(IMAGES[0], "is it red?", k=3)
    assert [name for name, _ in found] == sorted(shares, key=shares.get, reverse=True)
    np.testing.assert_allclose([x for _, x in found], [shares[n] for n, _ in found], atol=1e-5)
    few = model.answer(IMAGES[:2], "is it red?", answers=["no", "red"], k=3)
    assert [{name for name, _ in own} for own in few] == [{"no", "red"}] * 2
    with pytest.raises(ValueError, match=r"'rad' is none of the 3.*did you mean 'red'"):
        model.answer(IMAGES[0], "is it red?", answers=["rad"])
    with pytest.raises(NotTrained, match=r"writes none.*vqa_generation"):
        model.answer(IMAGES[0], "is it red?", answers="open")
