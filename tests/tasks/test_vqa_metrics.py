"""VQA v2's accuracy: the vectors of the official evaluator, and the evaluator's rule by hand."""

import numpy as np
import pytest

from unified_fm.tasks._metrics import vqa, vqa_answers

NORMALISED = [
    ("Yes.", "yes"),
    ("the red car", "red car"),
    ("Two", "2"),
    ("none", "0"),
    ("dont know", "don't know"),
    ("its", "its"),
    ("10:30", "10:30"),
    ("1,000", "1000"),
    ("1, 2", "1 2"),
    ("3.5", "3.5"),
    ("u.s.", "us"),
    ("a.m.", "am"),
    ("t-shirt", "t shirt"),
    ("black-and-white", "black and white"),
    ("yes/no", "yes no"),
    ("a", ""),
    ("...", ""),
    ("$5.00", "$5.00"),
    ("5 %", "5 %"),
    ("-1", "1"),
    ("a - b", "b"),
    ("no one", "no 1"),
    ("ten thousand", "10 thousand"),
    ("2 1/2", "2 1 2"),
    ("somebody'd", "somebodyd"),
    ("Id've", "id've"),
    ("red, white and blue", "red white and blue"),
    ('"stop"', "stop"),
    ("what?", "what"),
    ("don't!", "don't"),
]


@pytest.mark.parametrize(("answer", "expected"), NORMALISED)
def test_13_1_normalisation(answer, expected):
    assert vqa_answers.normalise(answer) == expected


@pytest.mark.parametrize("version", vqa.VERSIONS)
def test_13_1_n_of_ten(version):
    found = [vqa.accuracy("cat", ["cat"] * n + ["dog"] * (10 - n), version) for n in range(11)]
    assert found == pytest.approx([0, 0.3, 0.6, 0.9, *[1] * 7])


def test_13_1_nothing_is_normalised_where_all_ten_agree():
    assert vqa.accuracy("the cat", ["cat"] * 10) == 0
    assert vqa.accuracy("Cat", ["cat"] * 10) == 0
    assert vqa.accuracy("the cat", ["cat"] * 9 + ["dog"]) == 1
    assert vqa.accuracy("cat", ["the cat"] * 5 + ["cat"] * 5) == 1
    assert vqa.accuracy(" cat\n", ["cat", "cat\t"] * 5) == 1  # spaces at the ends are no difference


def test_the_copies_of_2016_normalise_the_prediction_always_and_only_marks_of_the_truth():
    assert vqa.accuracy("The cat.", ["cat"] * 10, "2016") == 1
    assert vqa.accuracy("two", ["two"] * 10, "2016") == 0  # the prediction alone becomes 2
    mixed = ["a cat!"] * 9 + ["dog"]
    assert vqa.accuracy("a cat", mixed, "2016") == 0  # "cat" against "a cat"
    assert vqa.accuracy("a cat", mixed, "2021") == 1
    with pytest.raises(ValueError, match=r"version is '2012'; did you mean '2021'\?"):
        vqa.accuracy("cat", mixed, "2012")


def leave_one_out(prediction, answers):
    """The evaluator's loop over the annotators, of answers that need no normalisation."""
    points = []
    for left_out in range(len(answers)):
        others = answers[:left_out] + answers[left_out + 1 :]
        points.append(min(1.0, sum(other == prediction for other in others) / 3))
    return sum(points) / len(points)


def test_accuracy_is_the_loop_over_annotators_of_any_number():
    rng = np.random.default_rng(0)
    for _ in range(50):
        answers = rng.choice(["cat", "dog", "bird"], rng.integers(1, 12)).tolist()
        for said in ("cat", "dog", "cow"):
            assert vqa.accuracy(said, answers) == pytest.approx(leave_one_out(said, answers))


def test_types_are_reported_apart():
    truth = [["yes"] * 10, ["2"] * 10, ["cat"] * 7 + ["dog"] * 3]
    kinds = ["yes/no", "number", "other"]
    found = vqa.metrics(["yes", "3", "dog"], truth, kinds)
    assert found == pytest.approx(
        {
            "accuracy": 1.9 / 3,
            "accuracy/yes/no": 1,
            "accuracy/number": 0,
            "accuracy/other": 0.9,
        }
    )
    np.testing.assert_allclose(vqa.per_example(["yes", "3", "dog"], truth), [1, 0, 0.9])


def test_chance_is_the_best_constant_of_each_number_that_stands_beside_it():
    """Not one answer for all: "no" is never a number, so any model would beat that."""
    said = ["yes", "yes", "yes", "no", "2", "2", "3", "cat"]
    kinds = ["yes/no"] * 4 + ["number"] * 3 + ["other"]
    best, found = vqa.chance([[answer] * 10 for answer in said], kinds)
    assert best == "yes"
    assert found == pytest.approx(
        {
            "accuracy": 3 / 8,
            "accuracy/yes/no": 3 / 4,
            "accuracy/number": 2 / 3,
            "accuracy/other": 1,
        }
    )
    # A constant is scored as any answer is: as it stands where all ten agree, else normalised.
    truth = [["the cat"] * 10, ["cat"] * 9 + ["dog"]]
    assert vqa.chance(truth) == ("the cat", {"accuracy": 1.0})


def test_the_contractions_are_the_120_of_the_evaluator():
    table = vqa_answers.CONTRACTIONS
    assert len(table) == 120
    for said, spelled in [
        ("aint", "ain't"),
        ("hed", "he'd"),
        ("twas", "'twas"),
        ("somebody'd", "somebodyd"),
        ("shed've", "she'd've"),
        ("they'dve", "they'd've"),
        ("y'allll", "y'all'll"),
        ("Ive", "I've"),
    ]:
        assert table[said] == spelled
    assert not {"its", "hell", "well", "were", "wed", "shed", "id", "ill", "shell"} & set(table)


def test_the_list_has_what_is_frequent_once_normalised(tmp_path):
    said = ["Yes", "yes", "yes."] * 4 + ["two"] * 9 + ["2"] * 5 + ["rare"] * 8 + ["a"] * 20
    answers = vqa_answers.build_list(said)
    assert answers.answers == ("2", "yes")  # "a" is nothing at all once its article is gone
    answers.save(tmp_path / "answers.json")
    assert (tmp_path / "answers.json").read_text() == '[\n"2",\n"yes"\n]\n'
    assert vqa_answers.load_list(tmp_path / "answers.json") == answers
    assert answers.hash != vqa_answers.build_list(said, least=8).hash
    with pytest.raises(ValueError, match="has these answers twice"):
        vqa_answers.AnswerList(("yes", "yes"))


def test_targets_are_the_accuracies_of_the_classes():
    answers = ["yes"] * 3 + ["Yes."] + ["no"] * 3 + ["maybe", "2", "two"]
    targets = vqa.soft_targets(answers, {"yes": 0, "no": 1, "2": 2, "cow": 3})
    assert targets == {0: 1.0, 1: 0.9, 2: 0.6}
