"""Next-sentence prediction in numbers that can be checked by hand."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from unified_fm.models import base as models
from unified_fm.objectives import nsp

LOGITS = np.array([[2.0, 0.0], [1.0, 3.0], [0.5, 0.0]], np.float32)


def run(batch):
    net = types.SimpleNamespace(next_sentence=lambda text: text[:, 0])
    views = types.SimpleNamespace(text_masked=jnp.asarray(LOGITS)[:, None])
    return nsp.Objective()(net, views, batch)


def test_cross_entropy_and_accuracy():
    out = run({"next_sentence": np.array([0, 1, 1], np.int32)})
    losses = np.log1p(np.exp([-2.0, -2.0, 0.5]))
    assert float(out.loss) == pytest.approx(losses.mean(), rel=1e-6)
    assert float(out.metrics["accuracy"]) == pytest.approx(2 / 3)
    out = run({"next_sentence": np.array([0, 1, 1]), "weight": np.array([1.0, 1.0, 0.0])})
    assert float(out.loss) == pytest.approx(losses[:2].mean(), rel=1e-6)
    assert (float(out.metrics["accuracy"]), float(out.denominator)) == (1, 2)


def test_what_is_missing_is_said():
    with pytest.raises(ValueError, match="needs `next_sentence`; the batch has text"):
        run({"text": None})
    with pytest.raises(ValueError, match=r"no head for next sentences; unified_fm\.models\.bert"):
        models.Model().next_sentence(None)
