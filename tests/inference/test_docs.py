"""The examples of docs/inference.md run as they stand, on a tiny run."""

import pathlib
import re

import pytest

import unified_fm
from tests.inference import runs
from unified_fm.inference.abilities import METHODS

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "inference.md"


@pytest.mark.slow
def test_every_example_runs(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unified_fm, "load", lambda path: model, raising=False)
    for name, colour in (("photo", "red"), ("other", "blue")):
        (tmp_path / f"{name}.jpg").write_bytes(runs.png(runs.picture(colour)))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    said = capsys.readouterr().out
    assert "Hit(index=" in said and "Box(x0=" in said


def test_the_page_lists_the_methods_in_their_order():
    listed = re.findall(r"^\| `(\w+)\(", PAGE.read_text(), re.MULTILINE)
    assert listed == list(METHODS)
