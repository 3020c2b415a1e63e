"""Finished cells on disk: whole or not at all, and found by what their numbers depend on."""

import dataclasses
import json

import pytest

from tests.scoreboard.made_up import finished
from unified_fm.scoreboard.cell import Cell, Hashes
from unified_fm.scoreboard.store import Store


def test_a_cell_comes_back_as_it_was(tmp_path):
    store, cell = Store(tmp_path), finished("pre-trained", 0.8, facts={"steps": 200})
    assert store.get(cell.key) is None
    store.put(cell)
    assert store.get(cell.key) == cell
    assert list(store.keys()) == [cell.key]
    assert {path.name for path in (tmp_path / "cells").iterdir()} == {
        f"{cell.key}.json",
        f"{cell.key}.jsonl",
    }


def test_the_key_is_that_of_config_data_checkpoint_arm_and_seed():
    cell = finished("pre-trained", 0.8)
    others = [
        dataclasses.replace(cell, hashes=dataclasses.replace(cell.hashes, config="other")),
        dataclasses.replace(cell, hashes=dataclasses.replace(cell.hashes, data="other")),
        dataclasses.replace(cell, hashes=dataclasses.replace(cell.hashes, checkpoint="other")),
        finished("pre-trained", 0.8, seed=1),
        finished("scratch", 0.8),
    ]
    assert len({cell.key, *(other.key for other in others)}) == 6
    moved = dataclasses.replace(cell, cell=dataclasses.replace(cell.cell, init="elsewhere/x"))
    assert moved.key == cell.key  # where a checkpoint lies is not what it is


def test_what_is_damaged_is_made_again(tmp_path, caplog):
    store, cell = Store(tmp_path), finished("scratch", 0.5)
    store.put(cell)
    about = tmp_path / "cells" / f"{cell.key}.json"
    predictions = about.with_suffix(".jsonl")
    good = about.read_text(), predictions.read_text()
    for path, text in (
        (about, good[0][:100]),
        (about, good[0].replace('"form": 1', '"form": 0')),
        (predictions, good[1].replace("c1", "c2", 1)),
        (predictions, good[1][:-30]),
    ):
        path.write_text(text)
        assert store.get(cell.key) is None and "made again" in caplog.text
        caplog.clear()
        about.write_text(good[0]), predictions.write_text(good[1])
    assert store.get(cell.key) == cell
    about.rename(about.with_name(f"{'0' * 20}.json"))
    predictions.rename(predictions.with_name(f"{'0' * 20}.jsonl"))
    assert store.get("0" * 20) is None and f"it is the cell {cell.key}" in caplog.text


def test_a_cell_whose_description_is_missing_is_not_finished(tmp_path):
    store, cell = Store(tmp_path), finished("scratch", 0.5)
    store.put(cell)
    (tmp_path / "cells" / f"{cell.key}.json").unlink()  # killed between the two files
    assert store.get(cell.key) is None
    store.put(cell)
    assert store.get(cell.key) == cell


def test_an_arm_starts_from_a_checkpoint_or_does_not():
    with pytest.raises(ValueError, match="'scratch' of x has init='runs/x'"):
        Cell(task="x", arm="scratch", config="c", init="runs/x")
    with pytest.raises(ValueError, match="'pre-trained' of x has init=''"):
        Cell(task="x", arm="pre-trained", config="c")
    with pytest.raises(ValueError, match="arm is 'pretrained'; did you mean 'pre-trained'"):
        Cell(task="x", arm="pretrained", config="c")


def test_titles_for_people():
    cell = Cell(task="vqa", arm="scratch", config="finetune/vqa:demo", seed=2, labels="5%")
    assert cell.title == "vqa, 5% of the data, scratch, seed 2"
    cell = Cell(task="digits", arm="trivial", config="pixels", labels="30")
    assert cell.title == "digits, 30 labels of each class, trivial, pixels"


def test_a_cell_on_disk_has_all_that_a_reader_asks_for(tmp_path):
    store, cell = Store(tmp_path), finished("pre-trained", 0.8)
    store.put(cell)
    about = json.loads((tmp_path / "cells" / f"{cell.key}.json").read_text())
    assert about["hashes"] == dataclasses.asdict(
        Hashes(config="c0ffee", data="da7a", checkpoint="abc")
    )
    assert about["cell"]["arm"] == "pre-trained" and about["seconds"] == 2.5
