"""The evaluators of tasks: what a row says, what stands in the file, and the score of it."""

import json

import numpy as np
import pytest
from etils import epath

from tests.tasks import answering
from tests.tasks import official_files as files
from unified_fm.tasks import glue, image_classification, nlvr2, refcoco, vqa
from unified_fm.tasks._scoring import lines as of_lines
from unified_fm.tasks._scoring import scorers

SMALL = {"size": 16, "patch_size": 8}


def one_hot(places, classes):
    return np.eye(classes, dtype=np.float32)[places]


def run(evaluator, say):
    evaluator.check()
    return {metric.name: metric for metric in evaluator.run(answering.Apply(say), {})}


def lines(folder):
    return [json.loads(line) for line in (folder / "predictions" / "dev-7.jsonl").open()]


def test_nlvr2_by_words_and_by_sentences(tmp_path):
    file = files.write_nlvr2(tmp_path, whole=True)
    made = answering.evaluator(
        nlvr2, f"nlvr2:{file}", epath.Path(tmp_path), learnt=1.0, max_skip=1.0, **SMALL
    )
    found = run(made, lambda batch: {"logits": one_hot([1] * len(batch["text"]), 2)})
    assert found["accuracy"].value == pytest.approx(2 / 4)
    assert found["consistency"].value == pytest.approx(1 / 3)
    assert {line["prediction"] for line in lines(tmp_path)} == {"True"}
    csv = (tmp_path / "predictions" / "dev-7.csv").read_text().splitlines()
    assert csv == [f"{name},True" for name, _ in files.NLVR2]


def test_nlvr2_without_an_image_has_no_score_and_says_of_which(tmp_path, caplog):
    """A part of the pairs is another number than that of papers (max_skip is of training)."""
    file = files.write_nlvr2(tmp_path)
    made = answering.evaluator(
        nlvr2, f"nlvr2:{file}", epath.Path(tmp_path), learnt=1.0, max_skip=1.0, **SMALL
    )
    assert run(made, lambda batch: {"logits": one_hot([1] * len(batch["text"]), 2)}) == {}
    [said] = [line for line in caplog.messages if line.startswith("dev: no score")]
    assert "1 of 4 records of nlvr2:" in said
    assert "dev-851-0-0): image is not there: tried" in said
    assert len(lines(tmp_path)) == 3
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["dev-7.jsonl"]


def test_vqa_answers_of_the_runs_own_list(tmp_path):
    questions, annotations = files.write_vqa(tmp_path)
    made = answering.evaluator(
        vqa,
        f"vqa:{questions}:{annotations}@{tmp_path}",
        epath.Path(tmp_path),
        learnt={"classes": 3},
        class_names=["yes", "2", "brown"],
        answers="gone.json",  # predicting needs the names alone
        classes=3,
        **SMALL,
    )
    answers = iter([0, 1, 0, 0])  # the last one of them is padding
    found = run(made, lambda batch: {"logits": one_hot([next(answers) for _ in batch["text"]], 3)})
    assert found["accuracy"].value == pytest.approx(2 / 3)
    assert found["accuracy/yes/no"].value == found["accuracy/number"].value == 1
    assert found["accuracy/other"].value == 0
    results = tmp_path / "predictions" / "dev-7_results.json"
    assert scorers.score_vqa(results, annotations).report()["metrics"]["accuracy"]["value"] == (
        pytest.approx(2 / 3)
    )
    assert lines(tmp_path)[0]["answer_type"] == "yes/no"


@pytest.mark.parametrize("convention", ["continuous", "pixel"])
def test_refcoco_boxes_are_in_pixels_of_the_image(tmp_path, convention):
    file = files.write_mdetr(tmp_path, "refcoco", "val", tmp_path)
    made = answering.evaluator(
        refcoco,
        f"refcoco:{file}",
        epath.Path(tmp_path),
        learnt=1.0,
        given={"convention": convention},
        **SMALL,
    )
    # The box of the first expression, of an image of 40 x 30: x 10, y 5, 20 wide, 10 high.
    box = np.array([20 / 40, 10 / 30, 20 / 40, 10 / 30], np.float32)
    found = run(made, lambda batch: {"box": np.tile(box, (len(batch["text"]), 1))})
    assert lines(tmp_path)[0]["prediction"] == pytest.approx([10, 5, 20, 10], abs=1e-4)
    assert found["val/accuracy"].value == 0.5
    again = scorers.score_refcoco(
        tmp_path / "predictions" / "dev-7.jsonl", file, convention=convention
    )
    assert again.report()["metrics"]["val/mean_iou"]["value"] == pytest.approx(
        found["val/mean_iou"].value
    )


def test_questions_without_an_image_id_are_drawn_with_their_picture(tmp_path):
    rows = [
        {"question_id": k, "question": f"what {k}?", "answer": ["yes"], "image": f"{k // 3}.jpg"}
        for k in range(6)
    ]
    for name in ("0.jpg", "1.jpg"):
        files.write_image(tmp_path / name)
    truth = files.write_json(tmp_path / "vqa_val.json", rows)
    made = answering.evaluator(
        vqa,
        f"vqa:{truth}",
        epath.Path(tmp_path),
        learnt={"classes": 2},
        class_names=["yes", "no"],
        answers="gone.json",
        classes=2,
        **SMALL,
    )
    run(made, lambda batch: {"logits": one_hot([0] * len(batch["text"]), 2)})
    report = json.loads((tmp_path / "predictions" / "dev-7.json").read_text())
    again = scorers.score_vqa(tmp_path / "predictions" / "dev-7.jsonl", truth).report()
    for each in (report, again):
        assert each["counts"] == {"questions": 6, "images": 2}
        assert each["metrics"]["accuracy"]["interval"] == "bootstrap of 2 images"


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({"image_id": 0, "image": "a/1.jpg"}, {"image_id": 0}),
        ({"image_id": None, "image": "a/1.jpg"}, {"image": "a/1.jpg"}),
        ({"image": b"pixels"}, {"image": "6ec9c2b0eb140107"}),
        ({"text": "no image"}, {}),
    ],
)
def test_an_image_is_told_by_its_id_or_its_path_or_its_content(record, field):
    assert of_lines.image_of(record) == field


def test_boxes_of_jsonl_need_neither_size_nor_split_nor_image_id(tmp_path):
    rows = [
        {"image": f"{k // 2}.jpg", "text": f"thing {k}", "box": [10, 5, 20, 10]} for k in range(4)
    ]
    for number, size in enumerate([(40, 30), (80, 60)]):
        files.write_image(tmp_path / f"{number}.jpg", size)
    file = files.write_lines(tmp_path / "val.jsonl", rows)
    made = answering.evaluator(refcoco, f"jsonl:{file}", epath.Path(tmp_path), learnt=1.0, **SMALL)
    box = np.array([20 / 40, 10 / 30, 20 / 40, 10 / 30], np.float32)  # right in the first picture
    found = run(made, lambda batch: {"box": np.tile(box, (len(batch["text"]), 1))})
    assert list(found) == ["accuracy", "mean_iou"] and found["accuracy"].value == 0.5
    assert found["accuracy"].chance_is == "best constant box"
    assert [line["size"] for line in lines(tmp_path)] == [[40, 30], [40, 30], [80, 60], [80, 60]]
    report = json.loads((tmp_path / "predictions" / "dev-7.json").read_text())
    assert report["metrics"]["accuracy"]["interval"] == "bootstrap of 2 images"
    assert report["metrics"]["accuracy"]["ci95"] == [0.0, 1.0]  # one of two is right


def test_classes_are_compared_by_name_and_not_by_number(tmp_path):
    for name in ("n2", "n3"):  # the training set has n1 before them
        files.write_image(tmp_path / "val" / name / "1.jpg")
    made = answering.evaluator(
        image_classification,
        f"folder:{tmp_path}/val",
        epath.Path(tmp_path),
        learnt={"classes": 3},
        class_names=["n1", "n2", "n3"],
        **SMALL,
    )
    found = run(made, lambda batch: {"logits": one_hot([1, 2], 3)})
    assert found["accuracy"].value == 1  # by number both would be wrong
    assert [line["truth"] for line in lines(tmp_path)] == ["n2", "n3"]
    assert lines(tmp_path)[0]["prediction"] == ["n2", "n1", "n3"]
    assert made.metric_names == ("accuracy", "mean_per_class")


@pytest.mark.parametrize(
    ("classes", "names", "message"),
    [
        (3, ["n1", "n2"], r"has 2 classes \(n1, n2, ...\), and the head .* 3: set the option"),
        (2, ["n1", "n2"], "has 1 classes that the stream 'task' has not, .*\n  n3"),
    ],
)
def test_other_classes_than_the_heads_are_refused_before_the_first_step(
    tmp_path, classes, names, message
):
    for name in ("n2", "n3"):
        files.write_image(tmp_path / name / "1.jpg")
    made = answering.evaluator(
        image_classification,
        f"folder:{tmp_path}",
        None,
        learnt={"classes": classes},
        class_names=names,
        **SMALL,
    )
    with pytest.raises(ValueError, match=message):
        made.check()


def test_labels_that_are_numbers_are_those_of_the_model(tmp_path):
    """Of `jsonl:`, beside a stream of folders: not "3" against "cat", which is always wrong."""
    for name in ("a", "b"):
        files.write_image(tmp_path / "val" / name / "1.jpg")
    rows = [{"id": k, "image": "val/a/1.jpg", "label": k} for k in range(3)]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = dict(learnt={"classes": 3}, **SMALL)

    def say(batch):
        return {"logits": one_hot([1] * len(batch["image"]), 3)}

    source = f"jsonl:{tmp_path / 'val.jsonl'}"
    named = answering.evaluator(
        image_classification, source, epath.Path(tmp_path), class_names=["a", "b", "c"], **given
    )
    assert run(named, say)["accuracy"].value == pytest.approx(1 / 3)
    assert [line["truth"] for line in lines(tmp_path)] == ["a", "b", "c"]
    nameless = answering.evaluator(
        image_classification, f"folder:{tmp_path / 'val'}", epath.Path(tmp_path), **given
    )
    with pytest.raises(ValueError, match=r"has classes with names .* numbers without any"):
        nameless.check()


def test_a_classifier_of_answers_without_its_list_is_refused(tmp_path):
    questions, annotations = files.write_vqa(tmp_path)
    source = f"vqa:{questions}:{annotations}@{tmp_path}"
    made = answering.evaluator(
        vqa, source, None, learnt={"classes": 3}, answers="gone.json", classes=3, **SMALL
    )
    with pytest.raises(ValueError, match="has no list of answers"):
        made.check()


def test_where_a_part_has_no_label_nothing_is_scored_and_it_is_said(tmp_path, caplog):
    rows = [{"text": f"film {k}", "label": k} for k in range(4)]  # there are two classes
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = answering.evaluator(
        glue,
        f"jsonl:{tmp_path / 'dev.jsonl'}",
        epath.Path(tmp_path),
        learnt={"task": "sst2"},
        task="sst2",
        max_len=16,
    )
    assert run(made, lambda batch: {"logits": one_hot([1] * len(batch["text"]), 2)}) == {}
    assert "2 of 4 records" in caplog.text and "the first is 2" in caplog.text
    assert len(lines(tmp_path)) == 4
