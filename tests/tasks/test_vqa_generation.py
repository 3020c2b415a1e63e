"""VQA by a decoder: packed pairs, the weighted loss, ranking against one by one, and its score."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from tests.tasks import answering, official_files, writers
from unified_fm import micro_batches
from unified_fm.data.skips import Skip
from unified_fm.models.memory import ImageMemory
from unified_fm.plugins import build
from unified_fm.tasks import vqa_generation
from unified_fm.tasks._scoring import scorers

RNG = np.random.default_rng(0)
ANSWERS = ("yes", "no", "red", "red hat", "2", "yellow", "a red hat on")


def pipeline(**options):
    given = {"tokenizer": writers.BYTES, "augment": "none", "max_len": 16} | writers.PIXELS
    return vqa_generation.Pipeline(**given | options)


def example(answers, seed=0, **more):
    image = np.random.default_rng(seed).integers(0, 255, (16, 16, 3), np.uint8)
    return {"id": seed, "image": image, "question": "What is it?", "answers": answers} | more


def spelled(row):
    return writers.BYTES.decode(row)


def test_every_answer_has_the_share_of_those_who_gave_it():
    made = pipeline()(example(["Red."] * 6 + ["red hat"] * 3 + ["the"]), RNG)
    rows = made["rows"]
    assert [spelled(row) for row in rows["answer"]] == ["red", "red hat"]  # normalised; "the" is ""
    np.testing.assert_allclose(rows["answer_weight"], [0.6, 0.3])
    assert made["asked"] == pytest.approx(0.9)
    assert rows["answer_mask"].sum(1).tolist() == [len("<red>"), len("<red hat>")]
    raw = pipeline(answer_form="as_is")(example(["Red."]), RNG)
    assert spelled(raw["rows"]["answer"][0]) == "Red."
    assert spelled(made["text"]) == "what is it"
    with pytest.raises(Skip, match="no answers"):
        pipeline()(example([]), RNG)
    assert sorted(pipeline(truth="unused")(example([]), RNG)) == ["image", "text", "text_mask"]


def test_visual_genome_counts_half_and_only_with_an_answer_of_the_list(tmp_path):
    path = official_files.write_json(tmp_path / "answers.json", list(ANSWERS))
    made = pipeline(answers=str(path))
    assert tuple(made.class_names) == ANSWERS
    rows = made(example(["red"], dataset="vg"), RNG)["rows"]
    assert rows["answer_weight"].tolist() == [0.5]
    with pytest.raises(Skip, match="no answer of the list"):
        made(example(["purple"], dataset="vg"), RNG)
    assert made(example(["purple"]), RNG)["rows"]["answer_weight"].tolist() == [1.0]


def packed(rows, groups=1, **options):
    made = pipeline(**options)
    given = [
        example(["red"] * 5 + ["no"] * 3 + ["2"] * 2, 1),
        example(["yes"] * 10, 2),
        example(["red hat"] * 6 + ["yes"] * 4, 3),
    ]
    each = [made(one, RNG) for one in given]
    batch = made.collate([*each, None], rows=rows, groups=groups)
    assert {k: (v.shape, v.dtype) for k, v in made.spec().items()} == {
        k: (v.shape[1:], v.dtype) for k, v in batch.items()
    }
    return batch


def test_pairs_are_packed_and_the_lightest_have_no_room():
    whole = packed(8)
    pairs = [spelled(row) for row in whole["answer"]]
    assert pairs == ["red", "no", "2", "yes", "red hat", "yes", "", ""]
    assert whole["answer_of"].tolist() == [0, 0, 0, 1, 2, 2, 0, 0]
    np.testing.assert_allclose(whole["answer_weight"], [0.5, 0.3, 0.2, 1, 0.6, 0.4, 0, 0])
    np.testing.assert_allclose(whole["asked"], [1, 1, 1, 0])
    cut = packed(4)
    assert [spelled(row) for row in cut["answer"]] == ["red", "yes", "red hat", "yes"]
    np.testing.assert_allclose(cut["answer_weight"], [0.5, 1, 0.6, 0.4])
    two = packed(8, groups=2)  # rows refer to questions of their own group
    assert two["answer_of"].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert [spelled(row) for row in two["answer"]][4:] == ["red hat", "yes", "", ""]


def test_micro_batches_cut_between_groups_only():
    with pytest.raises(ValueError, match="accumulate=2 must divide its groups, which are 1"):
        micro_batches.split({"task": packed(8)}, 2, {"task": 1})
    parts = micro_batches.split({"task": packed(8, groups=2)}, 2, {"task": 2})["task"]
    assert parts["answer_of"].tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]


@pytest.fixture(scope="module")
def world():
    objective = build(
        "objectives", "vqa_generation", tokenizer=writers.BYTES, max_new_tokens=5, k_test=2
    )
    batch = {name: jnp.asarray(array) for name, array in packed(4).items()}
    return objective, writers.params(objective, batch), batch


def log_p(net, batch):
    """Of every token of `ids`, f32[B L-1 V], with each row's own question."""
    views = net(batch)
    fused = net.fuse(text=views.text, text_mask=batch["text_mask"], memory=views.image_memory)
    decoder = net.attach(vqa_generation.NAME, net.text_decoder())
    memory = ImageMemory(image=fused, slot_mask=batch["text_mask"])
    return decoder.logits(decoder(batch["ids"][:, :-1], memory))


def one_by_one(params, batch, rows, texts):
    """f64[n]: log p of a text, the end included, for a question each."""
    own = {name: batch[name][rows] for name in ("image", "text", "text_mask")}
    ids = np.stack([writers.BYTES.encode(text, 16).ids for text in texts])
    scores = writers.log_softmax(writers.ask(log_p, params, own | {"ids": jnp.asarray(ids)}))
    each = np.take_along_axis(scores, ids[:, 1:, None], -1)[..., 0]
    counted = np.arange(1, 16) <= np.array([[len(text.encode()) + 1] for text in texts])
    return np.where(counted, each, 0.0)


def test_the_loss_is_the_weighted_sum_of_the_pairs_over_the_questions(world):
    objective, params, batch = world
    found = writers.ask(writers.value(objective), params, batch)
    rows = np.asarray(batch["answer_of"])
    texts = [spelled(row) for row in np.asarray(batch["answer"])]
    each = -one_by_one(params, batch, rows, texts).sum(-1)
    assert found.denominator == 3
    assert found.loss == pytest.approx(
        (np.asarray(batch["answer_weight"]) * each).sum() / 3, rel=1e-4
    )
    assert found.metrics["dropped"] == pytest.approx(0.5 / 3, abs=1e-6)


@pytest.mark.slow
def test_the_gradient_reaches_all_encoders(world):
    objective, params, batch = world
    reached = writers.parts(writers.learnt(objective)(params, batch, None)[1])
    assert reached == {"text_embed", "text", "patch_embed", "vision", "fusion", "answer_decoder"}


def ranked(world, **options):
    objective, params, batch = world
    objective = dataclasses.replace(objective.with_answers(ANSWERS), **options)
    asked = {name: batch[name] for name in ("image", "text", "text_mask")}
    return writers.ask(writers.said(objective), params, asked)["ranked"]


@pytest.mark.slow
def test_ranking_is_scoring_one_by_one(world):
    _, params, batch = world
    expected, first = np.zeros((4, len(ANSWERS))), np.zeros((4, len(ANSWERS)))
    for number, text in enumerate(ANSWERS):
        each = one_by_one(params, batch, np.arange(4), [text] * 4)
        expected[:, number], first[:, number] = each.sum(-1), each[:, 0]
    np.testing.assert_allclose(ranked(world), expected, atol=1e-4)
    twice = ranked(world, first_token_twice=True)
    np.testing.assert_allclose(twice, expected + first, atol=1e-4)
    best = ranked(world, most_tokens=0)  # by the two best first tokens, k_test
    for row in range(4):
        kept = first[row] >= np.sort(first[row])[-2]
        np.testing.assert_array_equal(np.isfinite(best[row]), kept)
        np.testing.assert_allclose(best[row][kept], expected[row][kept], atol=1e-4)


def evaluator(tmp_path, method, names=ANSWERS):
    questions, annotations = official_files.write_vqa(tmp_path)
    source = f"vqa:{questions}:{annotations}"
    return answering.evaluator(
        vqa_generation,
        source,
        epath.Path(tmp_path),
        learnt={},
        class_names=names,
        given={"method": method},
        images=2,
        max_len=16,
        **writers.PIXELS,
    )


class Ranks(answering.Apply):
    """`apply`, which is what the ranking evaluator calls."""

    def __call__(self, fn, params, batch, rngs=None):
        del params, rngs
        self.asked = fn
        return self.predictions("", "", {}, batch)


def test_ranked_and_written_answers_are_scored(tmp_path):
    scores = np.array([[3, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, -np.inf, 0, 9.0]])
    apply = Ranks(lambda batch: {"ranked": np.stack([scores[0], scores[1]])})
    made = evaluator(tmp_path, "ranked")
    made.check()
    found = {metric.name: metric.value for metric in made.run(apply, {})}
    lines = [json.loads(line) for line in (tmp_path / "predictions" / "dev-7.jsonl").open()]
    assert [line["prediction"] for line in lines] == ["yes", "a red hat on", "yes"]
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert len(apply.asked.objective.candidates) == len(ANSWERS)
    results = tmp_path / "predictions" / "dev-7_results.json"
    truth = tmp_path / "v2_mscoco_val2014_annotations.json"
    assert scorers.score_vqa(results, truth).statistics["accuracy"].value == found["accuracy"]

    ids = np.stack([writers.BYTES.encode(text, 12).ids[1:] for text in ("Two.", "the red")])
    apply = Ranks(lambda batch: {"ids": ids})
    found = {m.name: m.value for m in evaluator(tmp_path, "written").run(apply, {})}
    lines = [json.loads(line) for line in (tmp_path / "predictions" / "dev-7.jsonl").open()]
    assert [line["prediction"] for line in lines] == ["2", "red", "2"]


def test_without_a_list_there_is_nothing_to_rank(tmp_path):
    with pytest.raises(ValueError, match=r"no list of answers to rank .* method='written'"):
        evaluator(tmp_path, "ranked", names=()).check()
    evaluator(tmp_path, "written", names=()).check()
