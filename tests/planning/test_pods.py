"""docs/pods.md: its table is what the plans in docs/plans come to, its lines are real."""

import pathlib
import re

import pytest

from unified_fm.commands import plan as command

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "pods.md").read_text()
# Options of the commands beside the library's: gcloud, sbatch, pip and xprof.
OF_OTHERS = {
    *("--zone", "--accelerator-type", "--version", "--worker", "--command"),
    *("--nodes", "--gpus-per-node", "--ntasks-per-node"),
    *("--no-deps", "--logdir"),
}


def test_the_table_is_made_of_the_plans(capsys):
    plans = sorted((ROOT / "docs" / "plans").glob("*.json"))
    assert plans
    assert command.main(["--table", *map(str, plans)], "plan") == 0
    written = re.search(r"<!-- plans: .*? -->\n(.*?)\n<!-- end of plans -->", TEXT, re.DOTALL)
    assert written is not None
    assert capsys.readouterr().out.strip() == written[1].strip()


def options(text):
    return set(re.findall(r"(?<![\w-])--\w[\w-]*", text))


def test_every_option_it_names_is_one(capsys):
    from unified_fm import main
    from unified_fm.config import xla

    with pytest.raises(SystemExit):
        command.main(["--help"], "plan")
    own = options(main.help_text()) | options(capsys.readouterr().out)
    assert not own & OF_OTHERS
    assert options(TEXT) - own == OF_OTHERS | options(" ".join(xla.NEEDED[1]))
