"""From made-up cells to rows: means, paired intervals, and what a row may say."""

import dataclasses

import numpy as np
import pytest

from tests.scoreboard.made_up import finished, lines
from unified_fm.scoreboard import compare, page, row, trivial
from unified_fm.scoreboard import lines as scored_lines
from unified_fm.scoreboard.row import Value
from unified_fm.tasks._metrics import bootstrap, statistic

ABOUT = compare.Measured("animals", "30", "test", "classification")


def measured(scratch, pre_trained, trivial=(0.6,), seeds=(0, 1, 2), about=ABOUT):
    [found] = compare.rows(
        about,
        trivial=[finished("trivial", s, config=f"method {s}") for s in trivial],
        scratch=[finished("scratch", scratch, seed) for seed in seeds],
        pre_trained=[finished("pre-trained", pre_trained, seed) for seed in seeds],
    )
    return found


def test_a_row_has_all_columns():
    found = measured(0.5, 0.8, trivial=(0.4, 0.6))
    assert (found.task, found.labels, found.split, found.n) == ("animals", "30", "test", 200)
    assert (found.metric, found.unit, found.chance) == ("accuracy", "%", 0.25)
    assert found.trivial.value == 0.6 and found.trivial.title == "method 0.6"  # the best one
    assert found.scratch.value == 0.5 and found.scratch.seeds == {"0": 0.5, "1": 0.5, "2": 0.5}
    assert found.pre_trained.value == pytest.approx(0.8)
    assert found.difference.value == pytest.approx(0.3)
    assert found.difference.ci95[0] > 0 and found.says == row.HELPS and found.above_chance
    assert found.hashes["config"] == ["c0ffee", "method 0.4", "method 0.6"]
    assert found.hashes["data"] == ["da7a"] and found.hashes["checkpoint"] == ["abc"]
    assert found.seconds == pytest.approx(8 * 2.5) and found.tested == 8
    assert found.plain()["pre_trained"]["ci95"] == found.pre_trained.ci95


@pytest.mark.parametrize(
    ("scratch", "pre_trained", "trivial", "says"),
    [
        (0.5, 0.8, (0.6,), row.HELPS),
        (0.5, 0.8, (0.9,), row.NOT_ENOUGH),
        (0.5, 0.8, (), row.NOT_ENOUGH),  # of what no baseline is known nothing is claimed
        (0.5, 0.5, (0.4,), row.OPEN),
        (0.8, 0.5, (0.4,), row.HURTS),
    ],
)
def test_a_row_says_by_rule_whether_pre_training_helps(scratch, pre_trained, trivial, says):
    assert measured(scratch, pre_trained, trivial).says == says


def test_the_rule_at_its_edges():
    def judged(low, high, value=0.7, trivial=0.6):
        difference = Value(value=(low + high) / 2, ci95=(low, high))
        return row.judged(difference, Value(value=value), Value(value=trivial))

    assert judged(0.001, 0.2) == row.HELPS
    assert judged(0.0, 0.2) == row.OPEN  # 0 is not outside
    assert judged(0.001, 0.2, value=0.6) == row.NOT_ENOUGH  # as good is not better
    assert judged(-0.2, -0.001) == row.HURTS
    better = Value(value=0.1, ci95=(0.05, 0.15))
    beaten = Value(value=0.4), Value(value=0.3)
    assert row.judged(better, *beaten, chance=0.25) == row.HELPS
    assert row.judged(better, *beaten, chance=0.5) == row.NOT_ENOUGH  # a guess does as well


def test_the_difference_is_that_of_the_bootstrap_over_all_seeds():
    """Against a loop that draws the examples itself."""
    found = measured(0.5, 0.56)
    seen = {}
    for arm, share in (("scratch", 0.5), ("pre-trained", 0.56)):
        hits = [[x["prediction"] == x["truth"] for x in lines(share, seed)] for seed in range(3)]
        seen[arm] = np.mean(np.array(hits, float), axis=0)  # of each example, over the seeds
    per_example = seen["pre-trained"] - seen["scratch"]
    assert found.difference.value == pytest.approx(per_example.mean())
    rng = np.random.default_rng(1)
    drawn = [per_example[rng.integers(200, size=200)].mean() for _ in range(4000)]
    assert found.difference.ci95 == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.006)
    # Not paired, it would be wider: both arms are right on the same easy examples.
    values = statistic.mean(seen["pre-trained"])
    alone = bootstrap.interval(values)
    assert alone.high - alone.low > 1.5 * (found.difference.ci95[1] - found.difference.ci95[0])


def test_only_seeds_that_both_have_are_compared():
    [found] = compare.rows(
        ABOUT,
        trivial=[],
        scratch=[finished("scratch", 0.5, seed) for seed in (0, 1)],
        pre_trained=[finished("pre-trained", 0.8, seed) for seed in (1, 2)],
    )
    assert list(found.difference.seeds) == ["1"]
    assert list(found.scratch.seeds) == ["0", "1"]


def test_arms_that_are_not_there_leave_their_columns_empty():
    [found] = compare.rows(
        ABOUT, trivial=[], scratch=[finished("scratch", 0.5)], pre_trained=[], missing="needs x"
    )
    assert found.pre_trained is found.difference is found.trivial is None
    assert found.says == row.MISSING and found.trivial_missing == "needs x"
    with pytest.raises(ValueError, match="animals: no cell is finished"):
        compare.rows(ABOUT, trivial=[], scratch=[], pre_trained=[])


def test_cells_of_other_examples_cannot_be_compared():
    other = finished("pre-trained", 0.8, lines=lines(0.8, n=199))
    with pytest.raises(ValueError, match=r"pre-trained, seed 0 has 199 test examples, .* has 200"):
        compare.rows(ABOUT, trivial=[], scratch=[finished("scratch", 0.5)], pre_trained=[other])


def test_lines_of_every_kind_are_scored():
    images = [{"image_id": k // 2, "answer_type": "yes/no"} for k in range(4)]
    asked = [{"id": k, "prediction": "yes", "truth": ["yes"] * 10, **images[k]} for k in range(4)]
    assert scored_lines.score("vqa", asked).statistics["accuracy/yes/no"].value == 1
    pairs = [
        {"id": f"dev-0-{k}-0", "prediction": said, "truth": "True"}
        for k, said in enumerate(["True", "False", None])
    ]
    assert scored_lines.score("nlvr2", pairs).statistics["accuracy"].value == pytest.approx(1 / 3)
    box = {"size": [10, 10], "split": "val", "image_id": 1, "truth": [1, 1, 4, 4]}
    boxes = [{"id": 1, "prediction": [1, 1, 4, 4], **box}, {"id": 2, "prediction": None, **box}]
    assert scored_lines.score("refcoco", boxes).statistics["val/accuracy"].value == 0.5
    scores = [{"id": k, "prediction": k / 3, "truth": float(k)} for k in range(5)]
    assert scored_lines.score("glue stsb", scores).statistics["pearson"].value == pytest.approx(1)
    texts = [{"id": k, "prediction": f"a {w} cat", "truth": [f"a {w} cat"]} for k, w in
             enumerate(["red", "big", "old"])]  # fmt: skip
    assert scored_lines.score("captions", texts).statistics["bleu1"].value == pytest.approx(1)
    with pytest.raises(ValueError, match="kind of predictions is 'vga'; did you mean 'vqa'"):
        scored_lines.score("vga", asked)
    with pytest.raises(ValueError, match="predictions of refcoco need 'truth'; a line has id"):
        scored_lines.score("refcoco", [{"id": 1, "prediction": [0, 0, 1, 1]}])


def test_lines_of_a_retrieval_are_those_of_its_scores():
    scores = np.array([[0.9, 0.1, 0.8], [0.7, 0.2, 0.6]])
    found = scored_lines.rankings_of(scores, ["a", "b"], [2, 1])
    assert [line["id"] for line in found] == ["a", "b", "a#0", "a#1", "b#0"]
    assert found[1] == {
        "id": "b",
        "query": "image",
        "prediction": ["a#0", "b#0", "a#1"],
        "scores": [0.7, 0.6, 0.2],
        "of": 3,
        "truth": ["b#0"],
    }
    scored = scored_lines.score("retrieval", found)
    assert next(iter(scored.statistics)) == "mean_recall"
    assert scored.counts == {"images": 2, "captions": 3}
    assert scored.statistics["image_to_text/r1"].value == 0.5
    assert scored.statistics["text_to_image/r1"].value == pytest.approx(1 / 3)


def test_a_metric_of_a_part_says_how_many_examples_that_has():
    rows = [
        {"id": k, "prediction": [0, 0, 1, 1], "truth": [0, 0, 1, 1], "size": [9, 9], "image_id": k}
        | {"split": "testA" if k < 3 else "testB"}
        for k in range(10)
    ]
    about = compare.Measured("r", "", "t", "refcoco", ("testA/accuracy", "testB/mean_iou"))
    found = compare.rows(
        about, trivial=[], scratch=[finished("scratch", 0.5, lines=rows)], pre_trained=[]
    )
    assert [row.n for row in found] == [3, 7]


def test_what_evaluators_noted_stands_beside_the_numbers():
    note = "3 records could not be used"
    [found] = compare.rows(
        ABOUT,
        trivial=[],
        scratch=[finished("scratch", 0.5, facts={"notes": [note]})],
        pre_trained=[finished("pre-trained", 0.5, facts={"notes": [note]})],
    )
    assert found.notes == [note]


def test_what_is_not_finite_is_a_wrong_label_of_every_class():
    said = [{"id": k, "prediction": None, "truth": str(k % 2)} for k in range(4)]
    assert scored_lines.score("glue cola", said).statistics["matthews"].value == -1
    lists = [["a", "b", "c", "d", "e"], []]
    rows = [{"id": k, "prediction": each, "truth": "e"} for k, each in enumerate(lists)]
    found = scored_lines.score("classification", rows).statistics
    assert found["top5"].value == 0.5 and found["accuracy"].value == 0


def test_baselines_say_classes_by_the_names_that_they_have_learnt():
    data = trivial.Data(
        train=[],
        test=[{"id": 1, "label": 0}, {"id": 2, "label": 1}],
        class_names=("cat", "cow", "dog"),
        test_names=("cow", "dog"),  # a folder that lacks a class numbers the others otherwise
    )
    rows = trivial.as_lines("classification", [1, 1], data)
    assert [(row["prediction"], row["truth"]) for row in rows] == [("cow", "cow"), ("cow", "dog")]
    told = trivial.as_lines("glue cola", [1, 0], data)
    assert [(row["prediction"], row["truth"]) for row in told] == [("1", "0"), ("0", "1")]


def test_of_many_rows_only_what_survives_holms_correction_counts():
    """One difference whose interval just excludes 0, alone and beside seven that show none."""

    def of(name, low, high):
        difference = Value(value=(low + high) / 2, ci95=(low, high))
        found = dataclasses.replace(measured(0.5, 0.8), task=name, difference=difference)
        return dataclasses.replace(found, says=row.HELPS if low > 0 else row.OPEN)

    clear, just, open_ = of("clear", 0.2, 0.3), of("just", 0.001, 0.2), of("open", -0.1, 0.1)
    [only] = compare.corrected([just])
    assert only.holm_p == pytest.approx(0.0478, abs=1e-4) and not only.alone
    first, second, *rest = compare.corrected([clear, just, *[open_] * 6])
    assert first.holm_p < 1e-9 and not first.alone
    assert second.holm_p == pytest.approx(7 * only.holm_p) and second.alone and second.differs
    assert {each.holm_p for each in rest} == {1.0} and not any(each.alone for each in rest)
    nothing = dataclasses.replace(just, difference=None, says=row.MISSING)
    assert compare.corrected([nothing])[0].holm_p is None

    text = page.markdown([first, second, *rest], page.Facts())
    assert "p stays below 0.05 for 1 of the 2 that exclude 0; it does not for just, 30," in text
    assert f"| {second.holm_p:.3f} | helps (not after Holm's correction) |" in text
    assert "| < 0.001 | helps |" in text
    html = page.html([first, second], page.Facts()).decode()
    assert html.count('"says good"') == 1
