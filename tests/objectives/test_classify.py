"""The image head's loss in numbers that can be checked by hand."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from unified_fm.objectives import classify

LOGITS = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0]], np.float32)


def run(batch, **options):
    net = types.SimpleNamespace(image_head=lambda x: x)
    views = types.SimpleNamespace(image=jnp.asarray(LOGITS)[:, None])
    return classify.Objective(**options)(net, views, batch)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_softmax_cross_entropy():
    out = run({"label": np.array([0, 1])})
    expected = -(log_softmax(LOGITS)[0, 0] + log_softmax(LOGITS)[1, 1]) / 2
    assert float(out.loss) == pytest.approx(expected, rel=1e-6)
    assert float(out.denominator) == 2
    assert float(out.metrics["accuracy"]) == 0.5


def test_sigmoid_cross_entropy_is_summed_over_classes():
    out = run({"labels": np.array([[1, 0, 1], [0, 0, 0]])}, loss="sigmoid")
    yes, no = np.log(1 + np.exp(-LOGITS)), np.log(1 + np.exp(LOGITS))
    expected = (yes[0, 0] + no[0, 1] + yes[0, 2] + no[1].sum()) / 2
    assert float(out.loss) == pytest.approx(expected, rel=1e-6)


def test_label_smoothing():
    logs = log_softmax(LOGITS)
    expected = -(0.7 * (logs[0, 0] + logs[1, 1]) + 0.3 * logs.mean(-1).sum()) / 2
    out = run({"label": np.array([0, 1])}, label_smoothing=0.3)
    assert float(out.loss) == pytest.approx(expected, rel=1e-6)
    # Of sigmoids: yes is 0.85, no 0.15.
    yes, no = np.log(1 + np.exp(-LOGITS)), np.log(1 + np.exp(LOGITS))
    target = np.array([[0.85, 0.15, 0.15], [0.15, 0.85, 0.15]])
    out = run({"label": np.array([0, 1])}, label_smoothing=0.3, loss="sigmoid")
    expected = (target * yes + (1 - target) * no).sum() / 2
    assert float(out.loss) == pytest.approx(expected, rel=1e-6)


def test_padding_counts_nowhere():
    out = run({"label": np.array([0, 1]), "weight": np.array([1.0, 0.0])})
    assert float(out.loss) == pytest.approx(-log_softmax(LOGITS)[0, 0], rel=1e-6)
    assert float(out.metrics["accuracy"]) == 1


def test_what_is_missing_or_wrong_is_said():
    with pytest.raises(ValueError, match=r"needs `label` or `labels`; the batch has image"):
        run({"image": None})
    with pytest.raises(ValueError, match="labels have 4 classes, the image head 3"):
        run({"labels": np.zeros((2, 4))})
    with pytest.raises(ValueError, match="Possible: softmax, sigmoid"):
        run({}, loss="sigmoids")
    with pytest.raises(ValueError, match="label_smoothing is 1"):
        run({}, label_smoothing=1.0)
