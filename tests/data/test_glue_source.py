"""GLUE's files: every task, the quirks of each, and the same classes as TFDS has."""

import logging

import pytest
from tensorflow_datasets.text import glue as of_tfds

from tests.tasks import official_files as files
from unified_fm.data import glue_files
from unified_fm.data.official import WrongFile
from unified_fm.data.skips import Skip
from unified_fm.data.source import open_source
from unified_fm.data.sources import glue

# The first row of each task's training file.
FIRST = {
    "cola": (["A dog runs."], "acceptable"),
    "sst2": (['a "fine film '], "positive"),
    "mrpc": (['He said "yes.', "He agreed."], "equivalent"),
    "qqp": (["How?", "Why?"], "not_duplicate"),
    "stsb": (["A man.", "A person."], 4.25),
    "mnli": (["It rains.", "It is wet."], "entailment"),
    "qnli": (["Who ran?", "The dog ran."], "entailment"),
    "rte": (["The dog ran.", "A dog ran."], "entailment"),
    "wnli": (["It broke.", "The cup broke."], "entailment"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return files.write_glue(tmp_path_factory.mktemp("glue"))


@pytest.mark.parametrize("name", FIRST)
def test_every_task_is_read(root, name):
    task = glue_files.TASKS[name]
    read = open_source(f"glue:{root / task.folder}:train")
    texts, label = FIRST[name]
    example = read[0]
    assert (example["id"], example["sentences"]) == (0, texts)
    said = read.class_names[example["label"]] if read.class_names else example["label"]
    assert said == label
    assert [example[name] for name in task.texts] == texts


@pytest.mark.parametrize("name", FIRST)
def test_a_test_file_has_no_label(root, name):
    folder = root / glue_files.TASKS[name].folder
    split = "test_matched" if name == "mnli" else "test"
    example = open_source(f"glue:{folder}:{split}")[0]
    assert "label" not in example and "label_name" not in example
    assert all(example["sentences"])


def test_the_classes_texts_and_splits_are_those_of_tfds():
    configs = {config.name: config for config in of_tfds.Glue.BUILDER_CONFIGS}
    for name, task in glue_files.TASKS.items():
        config = configs[name]
        assert list(task.texts) == list(config.text_features), name
        assert list(task.classes) == list(config.label_classes or ()), name
    assert glue_files.split_of(glue_files.TASKS["mnli"], "validation_matched") == "dev_matched"


def test_texts_of_both_sources_are_found(root):
    ours = open_source(f"glue:{root / 'MNLI'}:train")[0]
    tfds = {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0, "id": 0}
    assert glue.texts_of(ours, "mnli") == glue.texts_of(tfds, "mnli")
    assert glue.texts_of({"text": "fine"}, "sst2") == ["fine"]  # tfds: makes a text of a sentence
    with pytest.raises(Skip, match="premise, hypothesis are needed"):
        glue.texts_of({"sentence": "fine"}, "mnli")


def test_a_broken_row_is_skipped_and_the_others_keep_their_number(root):
    read = open_source(f"glue:{root / 'QQP'}:train")
    assert len(read) == 3
    with pytest.raises(Skip, match="row of another number of columns: 4, not 6"):
        read[1]
    assert (read[2]["id"], read[2]["label_name"]) == (2, "1")
    assert read.place(1).endswith("QQP, train, row 1")


def test_no_majority_is_skipped(root):
    with pytest.raises(Skip, match="no majority label"):
        open_source(f"glue:{root / 'MNLI'}:train")[2]


def test_mrpc_as_microsoft_publishes_it(tmp_path):
    folder = tmp_path / "MRPC"
    files.write_rows(folder / "msr_paraphrase_train.txt", files.GLUE["MRPC"])
    files.write_rows(folder / "msr_paraphrase_test.txt", files.GLUE["MRPC"][:2])
    with pytest.raises(FileNotFoundError, match=r"no mrpc_dev_ids\.tsv"):
        open_source(f"glue:{folder}:train")
    files.write_rows(folder / "mrpc_dev_ids.tsv", ["13\t14"])
    train, dev, test = (open_source(f"glue:{folder}:{s}") for s in ("train", "dev", "test"))
    assert [train[k]["sentences"][1] for k in range(len(train))] == ["He agreed.", "It sank."]
    assert [dev[k]["sentences"][1] for k in range(len(dev))] == ["It fell."]
    assert test[0]["label_name"] == "1"  # Microsoft's test file has labels


def test_a_header_in_another_order_is_read_by_name(tmp_path):
    rows = ["label\tsentence2\tindex\tsentence1", "entailment\tB.\t0\tA."]
    files.write_rows(tmp_path / "RTE" / "train.tsv", rows)
    example = open_source(f"glue:{tmp_path / 'RTE'}:train")[0]
    assert (example["sentences"], example["label_name"]) == (["A.", "B."], "entailment")


def test_columns_that_fit_neither_way_are_refused_with_both_lists(tmp_path):
    files.write_rows(tmp_path / "RTE" / "train.tsv", ["a\tb\tc\td", "0\tA.\tB.\tentailment"])
    with pytest.raises(WrongFile, match=r"By name: \['sentence1', 'sentence2', 'label'\]; by num"):
        open_source(f"glue:{tmp_path / 'RTE'}:train")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("CoLA:dve", r"CoLA has no split 'dve'; did you mean 'dev'\?"),
        ("SNLI:train", "SNLI is no task of GLUE"),
        ("cola_v2:train", "'cola_v2' does not say which task it is"),
        ("CoLA:train@clo", "GLUE task is 'clo'"),
        ("CoLA", "not of the form glue:FOLDER:SPLIT"),
    ],
)
def test_wrong_names_are_refused_with_the_nearest(root, argument, message):
    with pytest.raises(ValueError, match=message):
        glue.Source(f"{root}/{argument}")


def test_another_size_than_published_is_a_warning(root, caplog):
    with caplog.at_level(logging.WARNING):
        glue.Source(f"{root / 'CoLA'}:dev")
    assert "has 3 rows; the published file has 1043" in caplog.text


def test_a_missing_file_lists_what_is_there(root, tmp_path):
    (tmp_path / "CoLA").mkdir()
    (tmp_path / "CoLA" / "dev.csv").write_text("")
    with pytest.raises(FileNotFoundError, match=r"has no dev\.tsv; it has dev\.csv"):
        glue.Source(f"{tmp_path / 'CoLA'}:dev")
