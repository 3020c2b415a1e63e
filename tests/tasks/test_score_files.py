"""What is refused of files to be scored is a sentence that names the file."""

import zipfile

import pytest

from tests.tasks import official_files as files
from unified_fm.data.official import WrongFile
from unified_fm.tasks._scoring import glue_submission, predictions, scorers

LATIN = "index\tprediction\n0\tcaf\xe9\n".encode("latin-1")


def test_predictions_that_are_not_utf_8_are_named(tmp_path):
    (tmp_path / "said.csv").write_bytes(LATIN)
    with pytest.raises(WrongFile, match=r"said\.csv is not UTF-8: byte 22 is"):
        predictions.read(tmp_path / "said.csv")
    (tmp_path / "CoLA.tsv").write_bytes(LATIN)
    with pytest.raises(WrongFile, match=r"CoLA\.tsv is not UTF-8: byte 22 is"):
        glue_submission.read(tmp_path / "CoLA.tsv", "CoLA.tsv")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("CoLA.tsv", LATIN)
    with pytest.raises(WrongFile, match=r"all\.zip: CoLA\.tsv is not UTF-8: byte 22 is"):
        glue_submission.read(tmp_path / "all.zip", "CoLA.tsv")


def test_labels_that_are_not_utf_8_are_named(tmp_path):
    (tmp_path / "val.txt").write_bytes("1.jpg caf\xe9\n".encode("latin-1"))
    said = files.write_lines(tmp_path / "said.jsonl", [{"id": "1.jpg", "prediction": "bar"}])
    with pytest.raises(WrongFile, match=r"val\.txt is not UTF-8: byte 9 is"):
        scorers.score_classification(said, tmp_path / "val.txt")


@pytest.mark.parametrize("content", [17, "annotations", None])
def test_a_truth_of_captions_that_is_neither_object_nor_array_is_refused(content, tmp_path):
    truth = files.write_json(tmp_path / "truth.json", content)
    with pytest.raises(WrongFile, match=r"truth\.json is of type .* Possible: an object \(COCO's"):
        scorers.read_captions(truth)
