"""`unified-fm score`: official files in, JSON out, for every task; and what it refuses."""

import json
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from tests.tasks import official_files as files
from unified_fm import cli
from unified_fm.data import glue_files
from unified_fm.data.sources import refcoco as refcoco_files
from unified_fm.tasks._metrics import retrieval
from unified_fm.tasks._scoring import glue_submission, predictions
from unified_fm.tasks._scoring.scorers import SCORERS

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def score(capsys):
    """score(task, predictions, truth, "--flag=..") -> the JSON of standard output."""

    def run(task, said, truth, *flags):
        arguments = [f"--task={task}", f"--predictions={said}", f"--truth={truth}", *flags]
        status = cli.main(["score", *arguments])
        out, err = capsys.readouterr()
        assert status == 0, err
        return json.loads(out)

    return run


@pytest.fixture
def refusal(capsys):
    """refusal(task, predictions, truth, ...) -> the sentence of standard error."""

    def run(task, said, truth, *flags):
        arguments = [f"--task={task}", f"--predictions={said}", f"--truth={truth}", *flags]
        assert cli.main(["score", *arguments]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        return err

    return run


def values(found):
    return {name: metric["value"] for name, metric in found["metrics"].items()}


def test_it_runs_without_jax_and_without_a_picture_library(tmp_path):
    truth = files.write_nlvr2(tmp_path)
    said = files.write_rows(tmp_path / "said.csv", [f"{name},True" for name, _ in files.NLVR2])
    script = (
        "import sys; from unified_fm import cli\n"
        f"status = cli.main(['score', '--task=nlvr2', '--predictions={said}', '--truth={truth}'])\n"
        "heavy = {'jax', 'flax', 'grain', 'tensorflow_datasets', 'PIL', 'cv2'}\n"
        "loaded = heavy & set(sys.modules)\n"
        "print(loaded or 'nothing', file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "nothing\n")
    assert json.loads(done.stdout)["metrics"]["accuracy"]["value"] == 0.5


def test_vqa(score, tmp_path):
    _, truth = files.write_vqa(tmp_path)
    said = [{"question_id": 1000, "answer": "Yes"}, {"question_id": 2000, "answer": "red"}]
    said.append({"question_id": 1001, "answer": "two"})
    found = score("vqa", files.write_json(tmp_path / "results.json", said), truth)
    # "Yes" is not "yes" where all ten agree; seven "2" and a "two" are 2; "the red one" is not red.
    assert values(found) == pytest.approx(
        {
            "accuracy": (0 + 1 + 0.9) / 3,
            "accuracy/yes/no": 0,
            "accuracy/number": 1,
            "accuracy/other": 0.9,
        }
    )
    assert found["metrics"]["accuracy"]["percent"] == "63.33"
    assert found["metrics"]["accuracy"]["chance"] == pytest.approx(1 / 3)
    low, high = found["metrics"]["accuracy"]["ci95"]
    assert low <= found["metrics"]["accuracy"]["value"] <= high
    assert found["metrics"]["accuracy"]["interval"] == "bootstrap of 2 images"
    assert (found["n"], found["counts"]) == (3, {"questions": 3, "images": 2})
    assert found["settings"]["version"] == "2021"
    assert found["files"]["truth"]["file"] == "v2_mscoco_val2014_annotations.json"
    older = score("vqa", tmp_path / "results.json", truth, "--version=2016")
    assert values(older)["accuracy/yes/no"] == 1


def test_the_common_lines_give_the_same_score(score, tmp_path):
    _, truth = files.write_vqa(tmp_path)
    rows = [(1000, "yes"), (2000, "brown"), (1001, "3")]
    predictions.write(tmp_path / "ours.jsonl", rows)
    predictions.write_array(tmp_path / "official.json", rows, "question_id", "answer")
    first, second = (score("vqa", tmp_path / n, truth) for n in ("ours.jsonl", "official.json"))
    assert first["metrics"] == second["metrics"]
    assert values(first)["accuracy"] == pytest.approx((1 + 1 + 0.6) / 3)


@pytest.mark.parametrize("name", [name for name in glue_files.TASKS if name != "ax"])
def test_glue(score, tmp_path, name):
    task = glue_files.TASKS[name]
    files.write_glue(tmp_path)
    split = "dev_matched" if name == "mnli" else "dev"
    rows = glue_files.read(task, tmp_path / task.folder, split)
    labels = [getattr(row, "label", None) or task.words[0] for row in rows]
    file = tmp_path / next(iter(task.files.values()))
    file.write_text(glue_submission.table(task, labels))
    found = score("glue", file, tmp_path / task.folder / f"{split}.tsv")
    assert values(found) == pytest.approx(dict.fromkeys(found["metrics"], 1.0))
    assert found["settings"] == {"task": name, "split": split, "seed": 0}
    again = score("glue", file, tmp_path / task.folder, f"--split={split}", f"--name={name}")
    assert again["metrics"] == found["metrics"]


def test_glue_counts_what_it_leaves_out(score, tmp_path):
    files.write_glue(tmp_path)
    said = files.write_rows(tmp_path / "QQP.tsv", ["index\tprediction", "0\t0", "1\t0", "2\t0"])
    found = score("glue", said, tmp_path / "QQP" / "dev.tsv")
    assert found["counts"] == {"examples": 2, "skipped": 1}
    assert found["notes"] == ["1 rows are left out: row of another number of columns"]
    assert values(found) == {"mean": 0.25, "accuracy": 0.5, "f1": 0}
    assert found["metrics"]["f1"]["chance"] == pytest.approx(2 / 3)


def test_glue_refuses_hidden_labels_and_numbers_for_words(refusal, tmp_path):
    files.write_glue(tmp_path)
    said = files.write_rows(tmp_path / "RTE.tsv", ["index\tprediction", "0\t0", "1\t1"])
    assert "RTE's test is scored by the server" in refusal("glue", said, tmp_path / "RTE/test.tsv")
    message = refusal("glue", said, tmp_path / "RTE/dev.tsv")
    assert "prediction 0 is '0'; possible: entailment, not_entailment (as words)" in message


def test_nlvr2(score, tmp_path):
    truth = files.write_nlvr2(tmp_path)
    said = [(name, "True") for name, _ in files.NLVR2]
    predictions.write_csv(tmp_path / "said.csv", said)
    found = score("nlvr2", tmp_path / "said.csv", truth)
    assert values(found) == pytest.approx({"accuracy": 0.5, "consistency": 1 / 3})
    assert found["counts"] == {"pairs": 4, "sentences": 3}
    headed = ["identifier,prediction", *(f"{name}, {label}" for name, label in files.NLVR2)]
    found = score("nlvr2", files.write_rows(tmp_path / "right.csv", headed), truth)
    assert set(values(found).values()) == {1.0}


def test_refcoco_by_split_and_convention(score, tmp_path):
    truth = files.write_refcoco(tmp_path)
    said = [(row.id, list(row.box)) for row in refcoco_files.read(truth)]
    said[1] = (said[1][0], [10, 5, 20, 4.9])  # below half of a box of height 10
    predictions.write(tmp_path / "said.jsonl", said)
    found = score("refcoco", tmp_path / "said.jsonl", truth)
    assert values(found) == pytest.approx(
        {
            "val/accuracy": 0.5,
            "val/mean_iou": (1 + 0.49) / 2,
            "testA/accuracy": 1,
            "testA/mean_iou": 1,
        }
    )
    assert found["counts"] == {"expressions": 5, "objects of val": 1, "objects of testA": 2}
    assert found["metrics"]["val/accuracy"]["chance"] == 1  # one box is all there is
    part = files.write_lines(
        tmp_path / "part.jsonl", [{"sent_id": i, "box": box} for i, box in said[:2]]
    )
    found = score("refcoco", part, truth, "--split=val", "--convention=pixel")
    assert values(found)["val/accuracy"] == 0.5
    assert found["settings"]["convention"] == "pixel"


def test_13_2_captions(score, tmp_path):
    from tests.tasks.test_caption_metrics import REFERENCES, SAID

    truth = files.write_coco_captions(tmp_path, dict(enumerate(REFERENCES)))
    said = [{"image_id": image, "caption": caption} for image, caption in enumerate(SAID)]
    found = score("caption", files.write_json(tmp_path / "results.json", said[::-1]), truth)
    assert values(found) == pytest.approx(
        {
            "cider": 1.7939811463,
            "bleu1": 0.7333333332,
            "bleu2": 0.6540472289,
            "bleu3": 0.5750141967,
            "bleu4": 0.5017398686,
            "rouge_l": 0.6198975804,
        }
    )
    assert found["headline"] == "cider"
    assert found["metrics"]["cider"]["interval"] == "bootstrap of 3 images"
    assert "METEOR and SPICE need Java" in found["notes"][0]


def test_captions_of_karpathys_split(score, tmp_path):
    truth = files.write_karpathy(tmp_path)
    said = [{"image_id": 100 + k, "caption": f"picture {k} caption 0"} for k in (3, 4)]
    found = score(
        "caption", files.write_json(tmp_path / "results.json", said), truth, "--split=test"
    )
    assert (found["n"], found["counts"]["references"]) == (2, 11)
    assert found["metrics"]["bleu4"]["value"] == pytest.approx(1, abs=1e-6)


def test_retrieval_from_scores_of_each_direction(score, tmp_path):
    truth = files.write_karpathy(tmp_path)
    image_of = np.array([0] * 6 + [1] * 5)
    rng = np.random.default_rng(0)
    of_images, of_texts = rng.random((2, 11)), rng.random((11, 2))
    np.savez(tmp_path / "s.npz", image_to_text=of_images, text_to_image=of_texts)
    found = score("retrieval", tmp_path / "s.npz", truth)
    expected = retrieval.metrics(*retrieval.ranks(of_images, of_texts, image_of), image_of)
    assert values(found) == pytest.approx(expected)
    assert (found["headline"], found["counts"]) == ("mean_recall", {"images": 2, "captions": 11})
    assert found["metrics"]["text_to_image/r1"]["chance"] == 0.5
    np.save(tmp_path / "s.npy", of_images[:, [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]])
    cut = score("retrieval", tmp_path / "s.npy", truth, "--captions-per-image=5")
    assert cut["counts"]["captions"] == 10


def test_retrieval_from_candidates_in_order(score, refusal, tmp_path):
    truth = files.write_karpathy(tmp_path)

    def written(lines):
        return files.write_lines(tmp_path / "r.jsonl", lines)

    captions = [f"103#{n}" for n in range(6)] + [f"104#{n}" for n in range(5)]
    lines = [
        {"id": "103", "query": "image", "prediction": ["104#1", "103#3"]},
        {"id": "104", "query": "image", "prediction": ["103#0", "103#1"]},
        *({"id": c, "query": "caption", "prediction": ["103", "104"]} for c in captions),
    ]
    found = score("retrieval", written(lines), truth)
    assert found["counts"] == {"images": 2, "captions": 11}
    assert found["metrics"]["image_to_text/r1"]["value"] == 0
    assert found["metrics"]["image_to_text/r5"]["value"] == 0.5  # 104 has none of its own
    assert found["metrics"]["image_to_text/r10"]["value"] == 1  # its worst rank is 6: six are not
    assert found["metrics"]["text_to_image/r1"]["value"] == pytest.approx(6 / 11)
    assert found["metrics"]["image_to_text/r1"]["chance"] == pytest.approx((6 + 5) / 22)
    assert found["metrics"]["text_to_image/r1"]["ci95"] == [0, 1]  # of two images
    tied = [{**lines[0], "scores": [2.5, 2.5]}, {**lines[2], "scores": [1, 1]}, *lines[1:2]]
    tied = score("retrieval", written([*tied, *lines[3:]]), truth)  # in another order, too
    assert tied["metrics"]["text_to_image/r1"]["value"] == pytest.approx(5 / 11)

    assert "ranks nothing for 1 images; the first is 103" in refusal(
        "retrieval", written(lines[1:]), truth
    )
    wrong = {**lines[0], "prediction": ["103#6"]}
    assert "line 1: 103#6 is no caption that it is ranked among (the nearest is 103#" in refusal(
        "retrieval", written([wrong, *lines[1:]]), truth
    )
    assert "line 14 ranks 103 again" in refusal("retrieval", written([*lines, lines[0]]), truth)
    among = {**lines[0], "of": 25010}
    assert "is ranked among 25,010 captions, and the truth has 11" in refusal(
        "retrieval", written([among, *lines[1:]]), truth
    )
    assert "ranks 103#5, which the truth has not" in refusal(
        "retrieval", written(lines), truth, "--captions-per-image=5"
    )


def test_lines_of_folds_are_the_mean_over_folds(score, refusal, tmp_path):
    truth = files.write_lines(
        tmp_path / "ours.jsonl",
        [{"id": k, "text": ["a", "b", "c"][: 1 + k // 2]} for k in range(4)],
    )
    captions = [f"{k}#{n}" for k in range(4) for n in range(1 + k // 2)]
    first = {"0": "1", "1": "1", "2": "2", "3": "3"}  # the image that stands first; 0's is wrong
    lines = [
        {"id": image, "query": "image", "prediction": [f"{best}#0"]}
        for image, best in first.items()
    ]
    lines += [{"id": name, "query": "caption", "prediction": [first[name[0]]]} for name in captions]
    said = files.write_lines(tmp_path / "r.jsonl", lines)
    whole, folds = score("retrieval", said, truth), score("retrieval", said, truth, "--folds=2")
    assert values(whole)["text_to_image/r1"] == pytest.approx(5 / 6)
    assert values(folds)["text_to_image/r1"] == pytest.approx((1 / 2 + 1) / 2)
    assert folds["metrics"]["image_to_text/r1"]["chance"] == 0.5
    lines[0]["prediction"] = ["3#0"]
    said = files.write_lines(tmp_path / "r.jsonl", lines)
    assert "line 1: 3#0 is no caption that it is ranked among" in refusal(
        "retrieval", said, truth, "--folds=2"
    )


def test_scores_of_another_shape_and_pickled_ones_are_refused(refusal, tmp_path):
    truth = files.write_karpathy(tmp_path)
    np.save(tmp_path / "s.npy", np.zeros((2, 10)))
    message = refusal("retrieval", tmp_path / "s.npy", truth)
    assert "is [2, 10]; the truth has 2 images and 11 captions, so [2, 11] is needed" in message
    np.save(tmp_path / "o.npy", np.array([{}], object))
    assert "cannot be read as NumPy's arrays" in refusal("retrieval", tmp_path / "o.npy", truth)


def test_classification_by_folders_lines_and_a_list(score, tmp_path):
    names = ["cat/1.jpg", "cat/2.jpg", "dog/3.jpg"]
    for name in names:
        files.write_rows(tmp_path / "val" / name, [""])
    lists = [["cat", "a", "b", "c", "d"], ["dog", "cat", "b", "c", "d"], ["a", "b", "c", "d", "e"]]
    predictions.write(tmp_path / "said.jsonl", zip(names, lists, strict=True))
    found = score("classification", tmp_path / "said.jsonl", tmp_path / "val")
    expected = {"accuracy": 1 / 3, "mean_per_class": 0.25, "top5": 2 / 3}
    assert values(found) == pytest.approx(expected)
    assert found["metrics"]["accuracy"]["chance"] == pytest.approx(2 / 3)
    assert found["metrics"]["accuracy"]["interval"] == "Wilson"
    listed = files.write_rows(tmp_path / "val.txt", [f"{n} {n.split('/')[0]}" for n in names])
    lines = [{"id": name, "label": name.split("/")[0]} for name in names]
    lines = files.write_lines(tmp_path / "truth.jsonl", lines)
    for truth in (listed, lines):
        assert (
            score("classification", tmp_path / "said.jsonl", truth)["metrics"] == found["metrics"]
        )


def test_the_devkits_list_is_refused(refusal, tmp_path):
    said = files.write_lines(tmp_path / "said.jsonl", [{"id": 1, "prediction": "cat"}])
    truth = files.write_rows(tmp_path / "ILSVRC2012_validation_ground_truth.txt", ["490", "361"])
    assert "has ids in an order of its own" in refusal("classification", said, truth)


def test_two_systems_are_compared_on_the_same_examples(score, tmp_path):
    labels = ["cat", "dog"] * 40
    truth = [{"id": k, "label": label} for k, label in enumerate(labels)]
    truth = files.write_lines(tmp_path / "truth.jsonl", truth)
    ours = [(k, label if k % 10 else "cow") for k, label in enumerate(labels)]
    theirs = [(k, label if k % 5 else "cow") for k, label in enumerate(labels)]
    predictions.write(tmp_path / "ours.jsonl", ours)
    predictions.write(tmp_path / "theirs.jsonl", theirs)
    found = score(
        "classification", tmp_path / "ours.jsonl", truth, f"--against={tmp_path}/theirs.jsonl"
    )
    difference = found["difference"]["accuracy"]
    assert difference["value"] == pytest.approx(0.1)
    assert difference["ci95"][0] > 0 and difference["excludes_zero"]
    assert difference["mcnemar_p"] == pytest.approx(2 * 0.5**8)  # eight wins, no loss


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "has no prediction for 2 of 2 examples; the first: 1, 2. A part would be another"),
        ([(1, "cat")], "has no prediction for 1 of 2 examples; the first: 2"),
        ([(1, "cat"), (2, "dog"), (12, "dog")], "1 predictions for no example of the truth; the"),
        ([(1, "cat"), (1, "dog")], "line 2 is a second prediction for 1"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(refusal, lines, message, tmp_path):
    truth = [{"id": 1, "label": "cat"}, {"id": 2, "label": "dog"}]
    truth = files.write_lines(tmp_path / "truth.jsonl", truth)
    predictions.write(tmp_path / "said.jsonl", lines)
    assert message in refusal("classification", tmp_path / "said.jsonl", truth)


def test_other_refusals(refusal, tmp_path, capsys):
    truth = files.write_lines(tmp_path / "truth.jsonl", [{"id": 1, "label": "cat"}])
    said = files.write_lines(tmp_path / "said.jsonl", [{"id": 1, "predicted": "cat"}])
    message = refusal("classification", said, truth)
    assert "line 1 has no prediction; did you mean 'predicted'?" in message
    (tmp_path / "said.pkl").write_bytes(b"")
    assert "is a pickle" in refusal("classification", tmp_path / "said.pkl", truth)
    assert "there is no 'nowhere.json'" in refusal("vqa", "nowhere.json", truth)
    with pytest.raises(SystemExit) as end:
        cli.main(
            ["score", "--task=vqa", f"--predictions={said}", f"--truth={truth}", "--split=val"]
        )
    assert end.value.code == 2
    assert "--split is no option of vqa; possible: --version" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["score", "--task=retrieval", "--predictions=x", "--truth=x", "--version=2016"])
    assert "possible: --split, --captions-per-image, --folds" in capsys.readouterr().err


def test_help_names_the_files_of_every_task(capsys):
    with pytest.raises(SystemExit):
        cli.main(["score", "--help"])
    said = capsys.readouterr().out
    assert [task for task in SCORERS if f"  {task}\n    predictions" not in said] == []


# The submission.


def small_submission():
    said = {name: [(task.words or (3.14159, 7.0))[0]] * 2 for name, (task, _) in FILES.items()}
    return said | {"STS-B.tsv": [3.14159, 7.0], "QNLI.tsv": ["not_entailment", "entailment"]}


FILES = glue_submission.FILES


def test_a_submission_has_eleven_files_and_is_the_same_every_time(tmp_path):
    sizes = dict.fromkeys(FILES, 2)
    for name in ("a.zip", "b.zip"):
        glue_submission.write(tmp_path / name, small_submission(), sizes)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert sorted(archive.namelist()) == sorted(
            [
                *("CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "STS-B.tsv", "MNLI-m.tsv", "MNLI-mm.tsv"),
                *("QNLI.tsv", "RTE.tsv", "WNLI.tsv", "QQP.tsv", "AX.tsv"),
            ]
        )
        assert archive.read("STS-B.tsv") == b"index\tprediction\n0\t3.142\n1\t5.000\n"
        assert archive.read("QNLI.tsv") == b"index\tprediction\n0\tnot_entailment\n1\tentailment\n"
        assert archive.read("CoLA.tsv") == b"index\tprediction\n0\t0\n1\t0\n"
    assert glue_submission.read(tmp_path / "a.zip", "MNLI-mm.tsv") == {
        "0": "entailment",
        "1": "entailment",
    }


def test_classes_are_spelled_as_the_server_wants_them():
    assert glue_submission.table(glue_files.TASKS["cola"], ["acceptable", "0"]).split() == [
        *("index", "prediction", "0", "1", "1", "0")
    ]
    with pytest.raises(ValueError, match=r"CoLA has no label 1; possible: 0, 1, or unacceptable"):
        glue_submission.table(glue_files.TASKS["cola"], [1])


def test_an_incomplete_submission_is_refused(tmp_path):
    said = small_submission()
    with pytest.raises(ValueError, match=r"CoLA\.tsv: 2 rows; 1063 are needed"):
        glue_submission.write(tmp_path / "a.zip", said)
    del said["AX.tsv"]
    with pytest.raises(ValueError, match=r"refuses a submission without AX\.tsv"):
        glue_submission.write(tmp_path / "a.zip", said)
    assert not (tmp_path / "a.zip").exists()


def test_the_published_line_counts_are_one_more_than_the_rows():
    counts = {name: task.sizes[split] + 1 for name, (task, split) in FILES.items()}
    assert counts == {
        "CoLA.tsv": 1064,
        "SST-2.tsv": 1822,
        "MRPC.tsv": 1726,
        "QQP.tsv": 390966,
        "STS-B.tsv": 1380,
        "MNLI-m.tsv": 9797,
        "MNLI-mm.tsv": 9848,
        "QNLI.tsv": 5464,
        "RTE.tsv": 3001,
        "WNLI.tsv": 147,
        "AX.tsv": 1105,
    }
