"""docs/faults.md names every row, and no test that does not exist."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "faults.md").read_text()
ROWS = re.findall(r"^\| *(\d+|[A-E]\d*) *\|(.*)\|$", TEXT, re.MULTILINE)
LETTERS = {"A": 10, "B": 7, "C": 5, "D": 11}


def _tests():
    files = [*(ROOT / "tests").rglob("test_*.py")]
    return {name for f in files for name in re.findall(r"^def (test_\w+)", f.read_text(), re.M)}


def test_every_row_is_there_once():
    wanted = [str(number) for number in range(1, 31)]
    wanted += [f"{letter}{k}" for letter, count in LETTERS.items() for k in range(1, count + 1)]
    assert [name for name, _ in ROWS] == [*wanted, "E"]


def test_every_test_that_is_named_exists():
    tests = _tests()
    named = set(re.findall(r"`(?:[\w/]+\.py::)?(test_\w+\*?)`", TEXT))
    assert len(named) > 60
    missing = [
        name for name in named if not any(re.fullmatch(name.replace("*", r"\w*"), t) for t in tests)
    ]
    assert not missing


def test_every_row_names_its_test_or_says_why_there_is_none():
    for name, cells in ROWS:
        number = name.zfill(2) if name.isdigit() else name
        own = f"`test_row_{number}_*`" if name.isdigit() else f"`test_{number}_*`"
        assert own in cells or "not testable here" in cells, name
