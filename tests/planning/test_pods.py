"""docs/pods.md: its table is what the plans in docs/plans come to, its lines are real."""

import pathlib
import re

from unified_fm.commands import plan as command

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "pods.md").read_text()


def test_the_table_is_made_of_the_plans(capsys):
    plans = sorted((ROOT / "docs" / "plans").glob("*.json"))
    assert plans
    assert command.main(["--table", *map(str, plans)], "plan") == 0
    written = re.search(r"<!-- plans: .*? -->\n(.*?)\n<!-- end of plans -->", TEXT, re.DOTALL)
    assert written is not None
    assert capsys.readouterr().out.strip() == written[1].strip()


def test_every_option_it_names_is_one():
    from unified_fm import main

    known = main.help_text()
    for name in ("profile", "grace_s", "start_timeout", "coordinator", "process"):
        assert f"--{name}" in TEXT and f"--{name}" in known
