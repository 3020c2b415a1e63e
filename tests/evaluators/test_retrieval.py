import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluators import worlds
from unified_fm.evaluators import _pairs, base, retrieval


@pytest.fixture(scope="module")
def tokenizer():
    return worlds.make_tokenizer()


def test_a_perfect_net_finds_everything_and_says_what_chance_was(tokenizer):
    evaluator = worlds.evaluator(retrieval, "eight", tokenizer, candidates=4, ranks=(1,))
    metrics = list(evaluator.run(worlds.Apply(worlds.Oracle(tokenizer)), {}))
    assert [(m.name, m.value, m.chance) for m in metrics] == [
        ("image_to_text/r1", 1.0, 0.25),
        ("text_to_image/r1", 1.0, 0.25),
    ]


def test_a_net_that_sees_the_same_everywhere_gets_nothing_from_ties(tokenizer):
    evaluator = worlds.evaluator(retrieval, "eight", tokenizer, candidates=8, ranks=(1,))
    to_text, to_image = evaluator.run(worlds.Apply(worlds.Oracle(tokenizer, confused=True)), {})
    assert to_text.value == 1 / 8  # it says "red" of everything
    assert to_image.value == 0.0  # all images tie


def test_A3_identical_captions_of_other_images_match_only_if_asked_for(tokenizer):
    evaluator = worlds.evaluator(retrieval, "duplicates", tokenizer, candidates=8, ranks=(1, 2))
    to_text, *_, to_image = evaluator.run(worlds.Apply(worlds.Oracle(tokenizer)), {})
    assert to_text.value == 0.0  # each image's caption ties with that of its twin
    assert to_image.value == 1.0
    assert to_text.chance == 1 / 8
    with pytest.raises(ValueError, match=r"same is 'text'; did you mean 'texts'\?"):
        worlds.evaluator(retrieval, "duplicates", tokenizer, same="text")


def test_the_same_caption_twice_is_a_match_of_both_images(tokenizer):
    evaluator = worlds.evaluator(
        retrieval, "duplicates", tokenizer, candidates=8, ranks=(1,), same="texts"
    )
    metrics = list(evaluator.run(worlds.Apply(worlds.Oracle(tokenizer)), {}))
    assert [m.value for m in metrics] == [1.0, 1.0]
    assert [m.chance for m in metrics] == [0.25, 0.25]  # two of eight are right


def test_several_captions_of_an_image_are_all_its_matches(tokenizer, monkeypatch):
    some = [
        worlds.record(0, 0, text=["a red square", "red"]),
        worlds.record(1, 1, text=["green", "a green square"]),
    ]
    monkeypatch.setitem(worlds.WORLDS, "captions", some)
    evaluator = worlds.evaluator(retrieval, "captions", tokenizer, candidates=0, ranks=(1, 5))
    metrics = list(evaluator.run(worlds.Apply(worlds.Oracle(tokenizer)), {}))
    assert [(m.name, m.value, m.chance) for m in metrics] == [
        ("image_to_text/r1", 1.0, 0.5),
        ("image_to_text/r5", 1.0, 1.0),
        ("text_to_image/r1", 1.0, 0.5),
        ("text_to_image/r5", 1.0, 1.0),
    ]


def test_reranking_repairs_what_the_cosine_gets_wrong(tokenizer):
    class HalfBlind(worlds.Oracle):
        def image_feature(self, views):
            return -super().image_feature(views)  # the true caption comes last

    evaluator = worlds.evaluator(retrieval, "eight", tokenizer, candidates=8, ranks=(1,), rerank=8)
    metrics = {m.name: m.value for m in evaluator.run(worlds.Apply(HalfBlind(tokenizer)), {})}
    assert metrics == {
        "image_to_text/r1": 0.0,
        "text_to_image/r1": 0.0,
        "reranked/image_to_text/r1": 1.0,
        "reranked/text_to_image/r1": 1.0,
    }


def test_a_match_outside_the_reranked_ones_is_missed(tokenizer):
    class HalfBlind(worlds.Oracle):
        def image_feature(self, views):
            return -super().image_feature(views)

    evaluator = worlds.evaluator(retrieval, "eight", tokenizer, candidates=8, ranks=(1,), rerank=2)
    metrics = {m.name: m.value for m in evaluator.run(worlds.Apply(HalfBlind(tokenizer)), {})}
    assert metrics["reranked/image_to_text/r1"] == 0.0


class Tabled(worlds.Oracle):
    """Red and green squares and captions, whose cosines and matching logits are these.

    The smallest case in which the ranking over both directions' candidates is another one: image 0
    would be found at rank 0 by it, and is at rank 1 as published.
    """

    cosines = np.array([[0.5, 0.9], [0.1, 0.2]], np.float32)  # [image text]
    logits = np.array([[5, 1], [0, 0]], np.float32)

    def _which_text(self, one_hot):
        green = self.tokenizer.token_id("green")
        return one_hot[..., green].max(-1).astype(int)

    def text_feature(self, views):
        return jnp.asarray(self.cosines.T)[self._which_text(views.text)]

    def image_feature(self, views):
        return jax.nn.one_hot(self._which_text(views.pooled[:, None]), 2)

    def fuse(self, *, text, text_mask, memory, rows=None, view="row"):
        image = self._which_text(memory[rows])
        return jnp.asarray(self.logits)[image, self._which_text(text)][:, None, None]

    def itm_head(self, first):
        return jnp.concatenate([-first, first], axis=1)


def test_A3_each_direction_ranks_its_own_candidates_again(tokenizer, monkeypatch):
    """Image 0's best caption is the wrong one, so its own stays behind, whatever its logit.

    The pair (image 0, caption 0) has a logit all the same: it is the best one of caption 0.
    """
    monkeypatch.setitem(worlds.WORLDS, "two", worlds.WORLDS["eight"][:2])
    scored = []
    score = _pairs.score
    monkeypatch.setattr(
        _pairs, "score", lambda *a, **kw: scored.extend(kw["pairs"].tolist()) or score(*a, **kw)
    )
    evaluator = worlds.evaluator(retrieval, "two", tokenizer, candidates=0, ranks=(1,), rerank=1)
    found = {m.name: m.value for m in evaluator.run(worlds.Apply(Tabled(tokenizer)), {})}
    assert found == {
        "image_to_text/r1": 0.5,
        "text_to_image/r1": 0.5,
        "reranked/image_to_text/r1": 0.5,  # over the union 1.0
        "reranked/text_to_image/r1": 0.5,
    }
    assert sorted(scored) == [[0, 0], [0, 1], [1, 1]]  # (1, 1), which both chose, once
    assert evaluator.examples[0].candidates[0] == "a green square"


def test_the_mean_recall_is_that_of_all_recalls(tokenizer, monkeypatch):
    some = [
        worlds.record(0, 0, text=["a red square", "red", "a green square"]),
        worlds.record(1, 1, text=["green"]),
        worlds.record(2, 2, text=["a red square", "a blue square"]),
    ]
    monkeypatch.setitem(worlds.WORLDS, "captions", some)
    options = {"candidates": 0, "ranks": (1, 2), "rerank": 3, "mean": True}
    evaluator = worlds.evaluator(retrieval, "captions", tokenizer, **options)
    found = {m.name: m for m in evaluator.run(worlds.Apply(worlds.Oracle(tokenizer)), {})}
    assert tuple(found) == evaluator.metric_names
    for prefix in ("", "reranked/"):
        names = [f"{prefix}{d}/r{k}" for d in retrieval.DIRECTIONS for k in (1, 2)]
        mean = found[f"{prefix}mean_recall"]
        assert 0 < mean.value < 1 and mean.unit == "%" and 0 < mean.error < 0.5
        assert mean.value == pytest.approx(np.mean([found[name].value for name in names]))
        assert mean.chance == pytest.approx(np.mean([found[name].chance for name in names]))


def test_pair_scores_equal_scoring_each_pair_alone(tokenizer):
    net = worlds.Oracle(tokenizer)
    images = np.stack([worlds.square(c) for c in range(5)])
    encoded = [tokenizer.encode(f"a {'a ' * c}{worlds.COLOURS[c]}", 12) for c in range(6)]
    text, mask = (np.stack([getattr(e, n) for e in encoded]) for n in ("ids", "mask"))
    pairs = np.array([[4, 0], [4, 4], [0, 0], [2, 5], [3, 3], [0, 1], [1, 1]])
    calls = []
    scored = _pairs.score(
        worlds.Apply(net),
        {},
        image=images,
        text=text,
        text_mask=mask,
        pairs=pairs,
        image_batch=2,
        pair_batch=3,
        progress=lambda done, total: calls.append((done, total)),
    )
    alone = []
    for i, t in pairs:
        views = net({"image": images[[i]], "text": text[[t]], "text_mask": mask[[t]]})
        fused = net.fuse(
            text=views.text, text_mask=mask[[t]], memory=views.image_memory, rows=np.array([0])
        )
        alone.append(float(net.itm_head(fused[:, 0])[0, 1]))
    np.testing.assert_allclose(scored, alone)
    assert len(set(np.round(alone, 3))) > 1
    assert calls == [(3, 7), (5, 7), (7, 7)]


def test_examples_show_both_directions(tokenizer):
    evaluator = worlds.evaluator(retrieval, "eight", tokenizer, candidates=4, shown=2)
    list(evaluator.run(worlds.Apply(worlds.Oracle(tokenizer)), {}))
    first, _, third, _ = evaluator.examples
    assert isinstance(first, base.RetrievalExample)
    assert first.candidates[0] == "a red square" and first.correct == [True, False, False, False]
    assert third.caption == "a red square" and third.candidates[0][0, 0, 0] == 0
