"""A run keeps its tokenizer, options and class names; a tokenizer is known by its content."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from tests import fake_bucket
from unified_fm import sharding, train
from unified_fm.checkpoint import assets, store
from unified_fm.config import file as config_file
from unified_fm.data import tokenizer as tokenizers
from unified_fm.data.streams import Streams, stream
from unified_fm.runtime.interruption import Interruption

bucket = fake_bucket.bucket
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
STILL = {"lr": 0.0}
STACK = {"layers": 1, "width": 8, "heads": 1, "mlp_width": 8}


def vocabulary(folder, *words):
    """A WordPiece vocabulary as a folder."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *words]))
    return str(folder)


def made(tokenizer, **changes):
    """The settings of a tiny run."""
    texts = stream("text", "synthetic:text", 2, {"mlm": 1.0}, max_len=8, threads=1)
    model = {"name": "bert", "vocab_size": 7, "text": STACK, "max_positions": 8}
    given = {"model": model, "tokenizer": tokenizer, "streams": {"text": texts}}
    given |= {"report": False, "log": {"tensorboard": False}}
    return config_file.made(given | changes)


def kept(run):
    """The name of the tokenizer that a run has kept."""
    return json.loads((run / "assets" / "assets.json").read_text())["tokenizer"]


@pytest.fixture
def keep(tmp_path):
    """Keeps what a run of a tokenizer needs, in tmp_path/run."""
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "cat" / "1.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "cat" / "2.png")

    def go(name):
        image = stream(
            "image", f"folder:{tmp_path}/pictures", 1, size=8, patch_size=4, num_masked=1, threads=1
        )
        texts = stream("text", "synthetic:text", 1, max_len=8, threads=1)
        loaded = tokenizers.load(name)
        streams = Streams({"image": image, "text": texts}, seed=0, tokenizer=loaded)
        assets.keep(tmp_path / "run", loaded, streams.loaders)
        streams.close()
        return tmp_path / "run"

    return go


def test_what_is_kept(tmp_path, keep):
    run = keep(vocabulary(tmp_path / "words", "a", "cat", "##s"))
    about = json.loads((run / "assets" / "assets.json").read_text())
    assert about["class_names"] == {"image": ["cat"]}
    assert about["preprocessing"]["image"]["pipeline"] == "image"
    assert about["preprocessing"]["image"]["size"] == 8
    assert about["preprocessing"]["image"]["flip"] == "random"  # a default
    assert "tokenizer" not in about["preprocessing"]["text"]
    names = {file.name for file in (run / "assets").iterdir()}
    assert names == {"assets.json", about["tokenizer"]}
    copy = tokenizers.load(str(run / "assets" / about["tokenizer"]))
    text = "a cats [MASK] zebra"
    original = tokenizers.load(str(tmp_path / "words"))
    assert copy.encode(text, 9).ids.tolist() == original.encode(text, 9).ids.tolist()


def test_a_tokenizer_is_known_by_its_content(tmp_path, keep):
    words = vocabulary(tmp_path / "words", "a", "cat")
    run, before = keep(words), made(words).plain()
    moved = shutil.copytree(words, tmp_path / "elsewhere" / "words")
    assert assets.changes(run, before, made(str(moved), seed=0)) == []
    other = vocabulary(tmp_path / "other", "a", "dog")
    (line,) = assets.changes(run, before, made(other, seed=0))
    assert line.startswith("tokenizer: sha256 ") and len(set(line.split(" -> "))) == 2
    assert line.count("sha256 ") == 2
    assert assets.changes(run, before, made(words, seed=1)) == ["seed: 0 -> 1"]


def test_the_copy_stands_in_for_files_that_are_gone(tmp_path, keep):
    words = vocabulary(tmp_path / "words", "a", "cat")
    config, run = made(words), keep(words)
    assert assets.located(config, run) == config
    tokenizers._load.cache_clear()  # as in a new process
    shutil.rmtree(words)
    moved = shutil.copytree(run, tmp_path / "moved")
    found = assets.located(config, moved)
    assert found.tokenizer.startswith(str(moved / "assets"))
    assert tokenizers.load(found.tokenizer).token_id("cat") == 6
    assert assets.changes(moved, config.plain(), config) == []
    shutil.rmtree(moved / "assets")
    assert assets.located(config, moved) == config  # the loader will say what it misses


def test_without_assets_the_paths_are_compared(tmp_path):
    """A run that was begun before there were any."""
    before, now = made("a").plain(), made("b")
    assert assets.changes(tmp_path, before, now) == ["tokenizer: a -> b"]


@pytest.mark.parametrize("text", ["{", "[]", '{"tokenizer": "../x.json"}', '{"tokenizer": 3}'])
def test_damaged_assets_are_named(tmp_path, text):
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "assets.json").write_text(text)
    with pytest.raises(ValueError, match=r"assets\.json is damaged"):
        assets.changes(tmp_path, {}, made("bytes"))


def test_a_run_in_a_bucket_keeps_a_tokenizer_of_another_one(bucket, tmp_path):
    words = tokenizers.load(vocabulary(tmp_path / "words", "a", "cat"))
    bucket.pipe_file("gs://models/words/tokenizer.json", words.text().encode())
    assets.keep("gs://runs/one", tokenizers.load("gs://models/words"), {})
    bucket.rm("gs://models/words", recursive=True)
    tokenizers._load.cache_clear()
    kept = assets.located(made("gs://models/words"), "gs://runs/one").tokenizer
    assert kept.startswith("gs://runs/one/assets/tokenizer-")
    assert tokenizers.load(kept).text() == words.text()


@pytest.mark.slow
def test_a_moved_run_goes_on_and_one_of_another_tokenizer_does_not(tmp_path, monkeypatch):
    one = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", one)
    words = vocabulary(tmp_path / "words", "a", "cat")

    def go(steps, workdir, tokenizer, **changes):
        workdir.mkdir(exist_ok=True)
        with Interruption() as stop:
            train.train(made(tokenizer, total_steps=steps, **changes), workdir, stop)

    go(1, tmp_path / "run", words)
    tokenizers._load.cache_clear()
    shutil.rmtree(words)
    moved = shutil.move(tmp_path / "run", tmp_path / "moved")
    go(2, moved, words)
    # A further run starts from it, by its path alone.
    moved_params = store.load_params(moved, 1)
    go(1, tmp_path / "next", str(moved / "assets" / kept(moved)), init=str(moved), optimizer=STILL)
    found = store.load_params(tmp_path / "next")
    jax.tree.map(np.testing.assert_array_equal, found, store.load_params(moved, 2))
    assert not np.array_equal(found["mlm_head"]["bias"], moved_params["mlm_head"]["bias"])
    assert sorted(int(f.name) for f in (moved / "checkpoints").glob("[0-9]*")) == [1, 2]
    other = vocabulary(tmp_path / "other", "a", "dog")
    with pytest.raises(ValueError, match=r"other settings:\n  tokenizer: sha256 \w+ -> sha256 \w+"):
        go(3, moved, other)
