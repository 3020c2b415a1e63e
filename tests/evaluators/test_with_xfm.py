"""The evaluators' ways through the fusion encoder, against the model called on whole batches."""

import functools

import jax
import numpy as np
import pytest

from tests.evaluators import worlds
from unified_fm import plugins, step
from unified_fm.evaluators import _pairs

LAYER = {"layers": 1, "width": 16, "heads": 2, "mlp_width": 32}


@pytest.fixture(scope="module")
def setting():
    tokenizer = worlds.make_tokenizer()
    model = plugins.build(
        "models",
        "xfm",
        vocab_size=tokenizer.vocab_size,
        image_size=worlds.SIZE,
        patch_size=4,
        projection_dim=8,
        max_positions=20,
        pad_id=tokenizer.pad_id,
        position_offset="bert",
        text=LAYER,
        vision=LAYER,
        fusion=LAYER,
    )
    images = np.random.default_rng(1).integers(0, 256, (4, worlds.SIZE, worlds.SIZE, 3), np.uint8)
    encoded = [tokenizer.encode("a red " * n + worlds.COLOURS[n], 12) for n in range(5)]
    text, mask = (np.stack([getattr(e, name) for e in encoded]) for name in ("ids", "mask"))
    batch = {"image": images, "text": text[:4], "text_mask": mask[:4]}
    # Random numbers of the right shapes: compiling the initialisers would take most of the test.
    init = functools.partial(model.init, method=_match)
    shapes = jax.eval_shape(init, jax.random.key(0), batch)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) / 2, shapes)
    return model, params, images, text, mask


def _match(net, batch):
    views = net(batch)
    fused = net.fuse(
        text=views.text, text_mask=batch["text_mask"], memory=views.image_memory, rows=None
    )
    return net.itm_head(fused[:, 0])[:, 1]


@pytest.mark.slow
def test_pair_scores_equal_the_model_on_each_image_with_its_caption(setting):
    model, params, images, text, mask = setting
    pairs = np.array([[i, t] for t in range(5) for i in range(4)])
    apply = step.make_apply(model)
    rows, words = pairs.T
    whole = {"image": images[rows], "text": text[words], "text_mask": mask[words]}
    expected = np.asarray(apply(_match, params, whole))
    scored = _pairs.score(
        apply,
        params,
        image=images,
        text=text,
        text_mask=mask,
        pairs=pairs,
        image_batch=2,
        pair_batch=4,
    )
    np.testing.assert_allclose(scored, expected, atol=2e-6)
    assert np.ptp(expected.reshape(5, 4), axis=1).min() > 1e-2  # each caption tells images apart
