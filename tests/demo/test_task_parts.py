"""Tasks on composed scenes: what official readers read is true of the pictures, and balanced."""

import collections
import dataclasses
import itertools
import re

import numpy as np
import pytest
from PIL import Image

from unified_fm.data.sources.demo import Source
from unified_fm.demo import (
    composed_captions,
    composed_nlvr2,
    composed_refcoco,
    composed_vqa,
    corpus,
    recipes,
    scenes,
    stage,
)
from unified_fm.tasks._metrics import vqa_answers
from unified_fm.tasks._scoring.scorers import SCORERS


@pytest.fixture
def small(packages, tmp_path, monkeypatch):
    """All parts of few pictures, of the twelve fake objects."""
    monkeypatch.setattr(
        composed_vqa, "SPLITS", {"train": ("train2014", 16), "val": ("val2014", 4),
                                 "test": ("test2015", 12)},
    )  # fmt: skip
    monkeypatch.setattr(
        composed_nlvr2, "SPLITS", {"train": ("train", 3), "val": ("dev", 1), "test": ("test1", 2)}
    )
    monkeypatch.setattr(
        composed_refcoco, "SPLITS", {"train": ("train", 4, 2), "val": ("val", 1, 1),
                                     "testA": ("test", 3, 0), "testB": ("test", 0, 3)},
    )  # fmt: skip
    monkeypatch.setattr(composed_captions, "SPLITS", {"train": 5, "val": 4, "test": 12})
    to = tmp_path / "demo"
    account = corpus.prepare(to, parts=["vqa", "nlvr2", "refcoco", "captions"], progress=False)
    return to, account


def read(source: str) -> list[dict]:
    opened = Source(source)
    return [opened[i] for i in range(len(opened))]


def the_stage(folder, split) -> stage.Stage:
    return stage.Stage(folder / "objects", split)


def test_the_official_readers_read_what_was_counted(small):
    to, account = small
    assert account["vqa"].counts["train"] == 32 and account["vqa"].counts["test pictures"] == 12
    assert account["nlvr2"].counts["test"] == 16 and account["nlvr2"].counts["test pictures"] == 16
    answers = vqa_answers.load_list(to / "vqa" / "answers.json").answers
    train = {vqa_answers.normalise(e["answers"][0]) for e in read(f"vqa/train@{to}")}
    assert set(answers) == train and len(answers) == len(train)
    for part, splits in {
        "vqa": ("train", "val", "test"),
        "nlvr2": ("train", "val", "test"),
        "refcoco": ("train", "val", "testA", "testB"),
        "captions": ("train", "val", "test"),
    }.items():
        for split in splits:
            examples = read(f"{part}/{split}@{to}")
            assert len(examples) == account[part].counts[split], (part, split)
            for example in examples:
                for image in example.get("images") or [example["image"]]:
                    with Image.open(image) as opened:
                        assert opened.size == (48, 48)
    [answers] = {len(example["answers"]) for example in read(f"vqa/test@{to}")}
    assert answers == 10
    assert read(f"nlvr2/train@{to}")[0]["id"] == "train-0-0-0"


def test_a_second_preparation_makes_the_same_files(small, tmp_path):
    to, _ = small
    again = tmp_path / "again"
    corpus.prepare(again, parts=["vqa", "nlvr2", "refcoco", "captions"], progress=False)
    files = {path.relative_to(to) for path in to.rglob("*") if path.is_file()}
    assert len(files) > 100
    for path in files - {path for path in files if path.name in ("stamp.json", ".lock")}:
        if path.parts[0] in ("vqa", "nlvr2", "refcoco", "captions"):
            assert (to / path).read_bytes() == (again / path).read_bytes(), path


def test_a_part_that_lacks_what_it_holds_today_is_made_again(small):
    to, _ = small
    (to / "vqa" / "answers.json").unlink()  # as an earlier version of the recipe left it
    account = corpus.prepare(to, parts=["vqa", "nlvr2"], progress=False)
    assert (to / "vqa" / "answers.json").exists()
    assert account["vqa"].seconds > 0 and account["nlvr2"].seconds == 0


def test_a_maker_that_writes_what_the_table_does_not_say_is_refused(small, monkeypatch):
    to, _ = small
    part = dataclasses.replace(recipes.PARTS["refcoco"], contents=("refcoco.jsonl", "more.json"))
    monkeypatch.setitem(recipes.PARTS, "refcoco", part)
    with pytest.raises(RuntimeError, match=r"lacks \['more.json'\] and has \['images'\]"):
        corpus.prepare(to, parts=["refcoco"], progress=False)


def ground_of(picture, side: int) -> str:
    """The name of the ground's colour on a half: the one that some of its pixels have."""
    seen = picture.pixels[:, 24 * side : 24 * (side + 1)].reshape(-1, 3).astype(int)
    [found] = [
        name for name, colour in stage.GROUNDS.items() if (np.abs(seen - colour).max(-1) <= 2).any()
    ]
    return found


def true_answer(question: str, picture) -> str:
    """What a picture says, by its objects and their boxes alone."""
    centres = [x + width / 2 for x, _, width, _ in picture.boxes]
    if match := re.fullmatch(r"is there an? (\w+)\?", question):
        return "yes" if match[1] in picture.names else "no"
    if match := re.fullmatch(r"what is (left|right) of the (\w+)\?", question):
        middle = centres[picture.names.index(match[2])]
        sides = {True: "left", False: "right"}
        others = [
            name
            for name, centre in zip(picture.names, centres, strict=True)
            if name != match[2] and sides[centre < middle] == match[1]
        ]
        [other] = others
        return other
    match = re.fullmatch(r"(how many things are|what is) on the (\w+) ground\?", question)
    side = next(side for side in (0, 1) if ground_of(picture, side) == match[2])
    on = [
        name for name, centre in zip(picture.names, centres, strict=True) if (centre > 24) == side
    ]
    return str(len(on)) if match[1].startswith("how") else on[0]


@pytest.mark.parametrize("split", scenes.SPLITS)
def test_answers_are_true_and_each_picture_has_two(small, split):
    there = the_stage(small[0], split)
    made = composed_vqa.scenes_with_questions(there, stage.numbers("vqa", split))
    for picture, asked in itertools.islice(made, 80):
        assert len(asked) == 2 and asked[0].answer != asked[1].answer
        assert asked[0].answer_type == asked[1].answer_type
        for each in asked:
            assert true_answer(each.question, picture) == each.answer, each


def test_answers_are_balanced_within_each_kind(small):
    there = the_stage(small[0], "train")
    made = composed_vqa.scenes_with_questions(there, stage.numbers("vqa", "train"))
    counts = collections.defaultdict(collections.Counter)
    for _, asked in itertools.islice(made, 4 * 12 * 5):  # five turns of the twelve objects
        for each in asked:
            counts[each.answer_type][each.answer] += 1
    assert counts["yes/no"] == {"yes": 60, "no": 60}
    assert counts["number"] == {"1": 60, "2": 60}
    for kind in ("place", "ground"):
        assert set(counts[kind]) == set(there.names)
        assert min(counts[kind].values()) >= 5  # each has its turn; the other answer is drawn


@pytest.mark.parametrize("split", scenes.SPLITS)
def test_pairs_that_are_held_out_are_in_no_other_split(small, split):
    there = the_stage(small[0], split)
    rng = np.random.default_rng(0)
    pairs = scenes.held_out_pairs(there.names)
    for _ in range(200):
        which = there.cast(rng, int(rng.integers(1, 4)))
        found = {
            name: sum(set(pair) <= set(which) for pair in pairs[name]) for name in ("val", "test")
        }
        wanted = {name: name == split and len(which) > 1 for name in found}
        assert {name: count > 0 for name, count in found.items()} == wanted


def test_a_cast_that_cannot_be_is_refused(small):
    there = the_stage(small[0], "train")
    a, b = scenes.held_out_pairs(there.names)["test"][0]
    with pytest.raises(ValueError, match=f"no 2 objects with .*{there.names[a]}"):
        there.cast(np.random.default_rng(0), 2, include=[a, b])


def said(sentence: str, pair, names) -> bool:
    """Whether a sentence is true of two pictures, read from its text."""
    left, right = ([names[i] for i in which] for which in pair)
    if match := re.fullmatch(r"both pictures show an? (\w+)", sentence):
        return match[1] in left and match[1] in right
    if match := re.fullmatch(r"one picture shows an? (\w+)", sentence):
        return [match[1] in left, match[1] in right].count(True) == 1
    if match := re.fullmatch(r"the (left|right) picture shows an? (\w+)", sentence):
        return match[2] in (left if match[1] == "left" else right)
    match = re.fullmatch(r"one picture has (one thing|two things|three things)", sentence)
    number = {"one thing": 1, "two things": 2, "three things": 3}[match[1]]
    return [len(left), len(right)].count(number) == 1


@pytest.mark.parametrize("split", scenes.SPLITS)
def test_sentences_are_true_of_half_the_pairs_and_pairs_of_half_the_sentences(small, split):
    there = the_stage(small[0], split)
    for sentences, pairs in itertools.islice(
        composed_nlvr2.sets(there, stage.numbers("nlvr2", split)), 12
    ):
        table = np.array([[said(s.text, pair, there.names) for s in sentences] for pair in pairs])
        assert table.tolist() == [[s.true(pair) for s in sentences] for pair in pairs]
        assert (table.sum(axis=0) == 2).all() and (table.sum(axis=1) == 1).all()
        assert all(there.whole(which) for pair in pairs for which in pair)


def test_boxes_of_expressions_are_those_of_the_things(small):
    to, _ = small
    drawn = {}
    for split in ("testA", "testB"):
        for example in read(f"refcoco/{split}@{to}"):
            with Image.open(example["image"]) as image:
                pixels = np.asarray(image.convert("RGB")).astype(int)
            x, y, width, height = map(int, example["box"])
            ground = np.median(pixels.reshape(-1, 3), axis=0)
            inside = np.abs(pixels[y : y + height, x : x + width] - ground).max(-1) > 60
            assert inside.mean() > 0.2  # the thing is there, and not the ground
            drawn.setdefault(split, []).append(example["text"])
    assert all(re.fullmatch(r"the \w+", text) for text in drawn["testA"])
    assert all(re.fullmatch(r"the thing (left|right) of the \w+", t) for t in drawn["testB"])


def test_captions_name_the_same_things_in_other_orders_and_pictures_differ(small):
    to, account = small
    test = read(f"captions/test@{to}")
    shown = []
    for example in test:
        things = [frozenset(re.findall(r"an? (\w+)", text)) for text in example["text"]]
        assert len(set(things)) == 1 and len(set(example["text"])) == len(example["text"])
        assert len(example["text"]) == {2: 2, 3: 5}[len(things[0])]
        shown.append(things[0])
    assert len(set(shown)) == len(shown)  # one right picture for each caption
    said = account["captions"].counts["test captions"]
    assert sum(len(example["text"]) for example in test) == said


def test_the_scorer_of_captions_reads_both_files(small, tmp_path):
    to, _ = small
    rows = [
        f'{{"id": {e["id"]}, "prediction": "{e["text"][0]}"}}' for e in read(f"captions/test@{to}")
    ]
    predictions = tmp_path / "said.jsonl"
    predictions.write_text("\n".join(rows))
    score = SCORERS["caption"].score
    coco = score(predictions, to / "captions" / "captions_test.json")
    karpathy = score(predictions, to / "captions" / "dataset_demo.json", split="test")
    values = [{n: s.value for n, s in found.statistics.items()} for found in (coco, karpathy)]
    assert values[0] == values[1] and values[0]["bleu1"] == pytest.approx(1)
