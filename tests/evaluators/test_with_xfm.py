"""The evaluators' ways through the fusion encoder, against the model called on whole batches."""

import functools

import jax
import numpy as np
import pytest
from etils import epath

from tests.evaluators import worlds
from unified_fm import plugins, queries, step
from unified_fm.evaluators import _pairs, retrieval
from unified_fm.evaluators._place import Place
from unified_fm.tasks._metrics import retrieval as metrics

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
    init = functools.partial(model.init, method=_everything)
    shapes = jax.eval_shape(init, jax.random.key(0), batch)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) / 2, shapes)
    return model, params, images, text, mask


def _everything(net, batch):
    return _match(net, batch), net.similarity(net(batch))


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


@pytest.mark.slow
@pytest.mark.parametrize("mix", retrieval.MIX)
def test_a_reranking_of_50_images_is_that_of_one_pair_at_a_time(
    setting, tmp_path, monkeypatch, mix
):
    model, params, *_ = setting
    rng = np.random.default_rng(2)
    words = [*worlds.COLOURS, "square", "a"]
    texts = [
        [" ".join(rng.choice(words, rng.integers(1, 11))) for _ in range(rng.integers(1, 4))]
        for _ in range(50)
    ]
    images = rng.integers(0, 256, (50, worlds.SIZE, worlds.SIZE, 3), np.uint8)
    pairs = zip(images, texts, strict=True)
    some = [{"id": n, "image": image, "text": text} for n, (image, text) in enumerate(pairs)]
    monkeypatch.setitem(worlds.WORLDS, "fifty", some)
    tokenizer, k = worlds.make_tokenizer(), 12
    evaluator = worlds.evaluator(
        retrieval,
        "fifty",
        tokenizer,
        **{"candidates": 0, "rerank": k, "mix": mix, "pair_batch": 16},
        place=Place("val", epath.Path(tmp_path), 7),
    )
    apply = step.make_apply(model)
    found = {m.name: m.value for m in evaluator.run(apply, params)}

    encoded = [(n, tokenizer.encode(text, 12)) for n, own in enumerate(texts) for text in own]
    image_of = np.array([n for n, _ in encoded])
    rows = [{"text": e.ids[None], "text_mask": e.mask[None]} for _, e in encoded]
    of_images = [apply(queries.image_feature, params, {"image": i[None]}) for i in images]
    of_texts = [apply(queries.text_feature, params, row) for row in rows]
    cosine = (
        np.concatenate([x["feature"] for x in of_images])
        @ np.concatenate([x["feature"] for x in of_texts]).T
    )
    kept = {}
    for path in (tmp_path / "predictions").rglob("chunk_*.npz"):
        with np.load(path) as chunk:
            kept |= dict(zip(map(tuple, chunk["pairs"].tolist()), chunk["logit"], strict=True))
    scores = []
    for own, order in ((cosine, None), (cosine.T, (1, 0))):
        best = metrics.top(own, k)
        table = np.full(own.shape, -100.0)
        for query, candidates in enumerate(best):
            for candidate in candidates:
                pair = (query, int(candidate)) if order is None else (int(candidate), query)
                batch = {"image": images[pair[0]][None], **rows[pair[1]]}
                alone = float(apply(_match, params, batch)[0])
                assert kept.pop(pair, alone) == pytest.approx(alone, abs=1e-5)
                table[query, candidate] = alone
        scores.append(np.where(table > -100, table + own * (mix == "itm+itc"), table))
    assert not kept  # no pair was scored that neither direction chose
    expected = metrics.metrics(*metrics.ranks(*scores, image_of), image_of)
    assert expected.pop("mean_recall") < 0.9
    for name, value in expected.items():
        assert found[f"reranked/{name}"] == pytest.approx(value, abs=1e-12), name
