"""The evaluator `calibration`, against NumPy on the same halves."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluators import worlds
from unified_fm.data.sources import base
from unified_fm.evaluators import calibration

# What the net below says of each colour, at twice the temperature that the labels are drawn at.
LOGITS = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32) * 4


def drawn(count):
    rng = np.random.default_rng(2)
    colours = rng.integers(0, 8, count)
    return colours, (LOGITS[colours] / 2 + rng.gumbel(size=(count, 4))).argmax(1)


class Source(base.Source):
    """`tests.evaluators.test_calibration:COUNT`: squares with a label drawn by their colour."""

    def __init__(self, argument):
        self.rows = list(zip(*drawn(int(argument)), strict=True))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        colour, label = self.rows[index]
        return {"image": worlds.square(int(colour)), "label": int(label), "id": index}


class Net(worlds.Oracle):
    def __call__(self, batch):
        colours = batch["image"][:, 0, 0, 0].astype(int)
        return worlds.Views(image=jnp.asarray(LOGITS)[colours][:, None])

    def image_head(self, first):
        return first


def evaluator(count, folder=None, **options):
    made = calibration.Evaluator(
        source=f"tests.evaluators.test_calibration:{count}",
        options={"size": worlds.SIZE, "patch_size": 4},
        tokenizer=worlds.make_tokenizer(),
        batch_size=64,
        **options,
    )
    made.place.name, made.place.folder, made.place.step = "sure", folder, 7
    return made


def test_one_half_gives_the_temperature_and_the_other_the_numbers(tmp_path):
    made = evaluator(401, tmp_path)
    apply = worlds.Apply(Net(made.tokenizer))
    found = {metric.name: metric for metric in made.run(apply, {})}
    assert apply.compiled <= 2  # the halves have 201 and 200 rows, in batches of 64

    colours, labels = drawn(401)

    def losses(temperature, rows):
        logits = np.float64(LOGITS)[colours[rows]] / temperature
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return -logs[np.arange(len(logs)), labels[rows]], np.exp(logs)

    even, odd = slice(0, None, 2), slice(1, None, 2)
    grid = np.linspace(1, 4, 601)
    best = grid[np.argmin([losses(t, even)[0].mean() for t in grid])]
    temperature = found["temperature"].value
    assert temperature == pytest.approx(best, abs=0.006)
    assert found["temperature"].how == "fitted on 201, the rest measured on 200"
    plain, shares = losses(1, odd)
    assert found["cross_entropy"].value == pytest.approx(plain.mean(), rel=1e-5)
    fitted, _ = losses(temperature, odd)
    assert found["cross_entropy_fitted"].value == pytest.approx(fitted.mean(), rel=1e-5)
    assert fitted.mean() < plain.mean()

    sure, right = shares.max(1), shares.argmax(1) == labels[odd]
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (sure > low) & (sure <= low + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(sure[inside].mean() - right[inside].mean())
    assert found["ece"].value == pytest.approx(error, abs=1e-5)
    assert found["ece_fitted"].value < found["ece"].value

    kept = json.loads((tmp_path / "calibration" / "sure-7.json").read_text())
    assert (kept["step"], kept["of"]) == (7, "image")
    assert kept["metrics"] == {name: metric.value for name, metric in found.items()}
    for name in ("bins", "bins_fitted"):
        assert sum(row["count"] for row in kept[name]) == 200
        assert [row["low"] for row in kept[name]] == pytest.approx(np.arange(15) / 15)
    (example,) = made.examples
    assert example.plain.count.tolist() == [row["count"] for row in kept["bins"]]


def test_masked_words_of_a_model_that_knows_nothing():
    """Uniform over the vocabulary at any temperature; nothing is written outside a run."""
    tokenizer = worlds.make_tokenizer()
    made = calibration.Evaluator(
        of="mlm",
        pipeline="text",
        source="tests.evaluators.worlds:eight",
        options={"max_len": 8, "mask_rate": 1.0, "max_masked": 6, "special_tokens": "never"},
        tokenizer=tokenizer,
        batch_size=4,
    )
    found = {m.name: m for m in made.run(worlds.Apply(worlds.Oracle(tokenizer)), {})}
    for name in ("cross_entropy", "cross_entropy_fitted"):
        assert found[name].value == pytest.approx(np.log(tokenizer.vocab_size), rel=1e-5)
    assert found["temperature"].value == 1.0
    assert "fitted on 12, the rest measured on 12" in found["temperature"].how
    assert found["ece"].value == pytest.approx(1 / tokenizer.vocab_size, rel=1e-4)


def test_the_derivatives_are_those_of_the_loss():
    """By differences, in float64; an answer below 0 is taken for class 0."""
    logits, answers = np.float64(LOGITS[:3]), np.array([1, 0, -100])

    def loss(inverse):
        logs = inverse * logits - np.log(np.exp(inverse * logits).sum(1, keepdims=True))
        return -logs[np.arange(3), np.maximum(answers, 0)]

    found = jax.jit(calibration._of_softmax)(LOGITS[:3], answers, np.full(3, 0.7, np.float32))
    h = 1e-3
    np.testing.assert_allclose(found["loss"], loss(0.7), rtol=1e-5)
    np.testing.assert_allclose(found["slope"], (loss(0.7 + h) - loss(0.7 - h)) / (2 * h), rtol=1e-4)
    curve = (loss(0.7 + h) - 2 * loss(0.7) + loss(0.7 - h)) / h**2
    np.testing.assert_allclose(found["curve"], curve, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": "words"}, "calibration.of is 'words'; .*Possible: image, mlm"),
        ({"bins": 0}, "calibration.bins is 0; it must be at least 1"),
        ({"of": "mlm"}, "needs 'masked_ids', which the pipeline 'classify' does not give"),
        ({"num_examples": 1}, "needs two halves with something to guess"),
    ],
)
def test_what_it_cannot_measure(options, message):
    with pytest.raises(ValueError, match=message):
        made = evaluator(4, **options)
        list(made.run(worlds.Apply(Net(made.tokenizer)), {}))


def test_answers_that_are_all_right_have_no_best_temperature(caplog):
    made = dataclasses.replace(evaluator(4), source="tests.evaluators.worlds:labelled")
    found = {m.name: m for m in made.run(worlds.Apply(worlds.Oracle(made.tokenizer)), {})}
    assert found["temperature"].value < 1 / 32
    assert "no temperature is best between 1/32 and 32" in caplog.text
