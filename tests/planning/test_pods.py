"""docs/pods.md: its table is what the plans in docs/plans come to, its lines are real."""

import dataclasses
import pathlib
import re

import pytest

from unified_fm.commands import plan as command
from unified_fm.planning import text

ROOT = pathlib.Path(__file__).parents[2]
PLANS = ROOT / "docs" / "plans"
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


@pytest.mark.parametrize(("compiler", "usable"), [("tpu", 1.0), ("cuda", 0.95), ("cpu", 0.95)])
def test_a_plan_fits_with_all_that_a_step_is_given(compiler, usable):
    """libtpu accepts a program whose state and temporaries together are more than its chip has."""
    _, _, made = text.read((PLANS / "v5e-4x4-ufm.json").read_text())
    found = dataclasses.replace(
        made.plan, compiler=compiler, arguments=0.0, outputs=0.0, aliased=0.0
    )
    room = usable * found.memory - found.temporaries - found.code
    assert dataclasses.replace(found, arguments=room - 1e3).fits
    assert not dataclasses.replace(found, arguments=room + 1e3).fits


def test_every_plan_that_is_committed_fits():
    for path in PLANS.glob("*.json"):
        _, _, made = text.read(path.read_text())
        assert made.plan is None or made.plan.fits, path.name
