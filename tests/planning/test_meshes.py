"""`unified-fm plan`, up to the compilation: what it refuses, and that what it advises is taken."""

import logging
import re

import pytest

from unified_fm.commands import plan as command
from unified_fm.config import file
from unified_fm.planning import plan, topologies, variants

UFM = "--config=ufm_base:joint,smoke"


@pytest.fixture
def told(monkeypatch, capsys):
    """Runs the command on the 8 simulated devices of the tests: (status, what it wrote)."""
    monkeypatch.setattr(topologies, "prepare", lambda count: None)
    monkeypatch.setattr(logging.getLogger("jax"), "setLevel", lambda level: None)

    def run(*arguments):
        try:
            status = command.main(["--topology=cpu:8", *arguments], "plan")
        except SystemExit as end:
            status = end.code
        written = capsys.readouterr()
        return status, written.out + written.err

    return run


@pytest.fixture
def refusing(monkeypatch):
    """No batch fits; gives the settings of what would have been compiled."""
    tried = []

    def attempt(ready, *_):
        tried.append(ready.settings)
        rows = variants.rows(ready.settings, 8)
        return plan.Refusal(rows=rows, text="too large", seconds=0.0, needed=3.0, available=1.0)

    monkeypatch.setattr(plan, "_attempt", attempt)
    return tried


def batch(rows):
    return [f"--config.streams.{name}.batch_size={rows}" for name in ("image", "text")]


@pytest.mark.parametrize(
    ("changes", "why", "nearest"),
    [
        (["mesh.fsdp=3"], "does not fit 8 device", "data=2 fsdp=4 tensor=1"),
        (["mesh.data=2", "mesh.fsdp=8"], "does not fit 8 device", "data=1 fsdp=8 tensor=1"),
        (["mesh.fsdp=8"], "has 12 rows, which 8 parts", "data=1 fsdp=4 tensor=2"),
        (["mesh.tensor=8"], "cannot be split over tensor=8", "data=4 fsdp=1 tensor=2"),
        (["mesh.tensor=5"], "does not fit 8 device", "data=4 fsdp=1 tensor=2"),
        (
            ["mesh.tensor=2", "rules.sharding=fsdp"],
            "either set --config.rules.sharding=tensor",
            "data=8 fsdp=1 tensor=1",
        ),
        (["mesh.fsdp=8", "rules.sharding=fsdp"], "has 12 rows, which 8 parts", None),
    ],
)
def test_a_mesh_that_cannot_be_made_is_refused_with_the_nearest(told, changes, why, nearest):
    rows = batch(12 if "12 rows" in why else 16)
    status, said = told(UFM, *rows, *(f"--config.{change}" for change in changes))
    assert status == 2
    assert why.casefold() in said.casefold()
    if nearest is None:
        assert "no other mesh of these devices does either" in said
    else:
        axes = nearest.replace(" ", " --config.mesh.")
        assert f"the nearest mesh that can be made: --config.mesh.{axes}\n" in said


def test_a_teacher_that_tensor_does_not_divide_is_named(told):
    changes = ["--config.mesh.tensor=4", "--config.model.encoder.heads=4", *batch(16)]
    status, said = told("--config=ufm_base:smoke", *changes)
    assert (status, "refused: teacher 'bert': sharding: dimension 0 of" in said) == (2, True)
    assert "--config.mesh.tensor=2" in said


def test_what_is_advised_where_nothing_fits_is_taken(told, refusing):
    changes = [f"--config.streams.{name}.batch_size=64" for name in ("text", "image", "pairs")]
    changes += ["--config.streams.regions.batch_size=64", "--config.streams.regions.images=64"]
    changes += [f"--config.streams.{name}.groups=8" for name in ("pairs", "regions")]
    asked = ["--config=xfm_base:smoke", "--no-search", "--config.mesh.data=8", *changes]
    status, said = told(*asked)
    [line] = [line for line in said.splitlines() if "--config.accumulate" in line]
    assert line == (
        "  with --config.accumulate=4 --config.streams.pairs.groups=32 "
        "--config.streams.regions.groups=32, which makes the batch in 4 parts (negatives come from"
    )
    again, said = told(*asked, *re.findall(r"--config\.\S+=\d+", line))
    assert (status, again) == (2, 2)
    assert [made.accumulate for made in refusing] == [1, 4]
    assert "None of these fits" in said
    assert "--config.accumulate" not in said  # a group of one row has no negatives


def test_micro_batches_have_groups_of_their_own():
    grouped = ["pairs", "regions"]
    made = file.load("xfm_base:chips=8")
    assert variants.accumulated(made, 2, 8, grouped) == {
        "accumulate": 2,
        "streams.pairs.groups": 16,
        "streams.regions.groups": 16,
    }
    assert variants.accumulated(made, 2, 4, grouped) == {"accumulate": 2}  # 8 are enough
    assert variants.accumulated(made, 5, 8, grouped) is None  # 768 rows
    assert variants.accumulated(made, 96, 8, grouped) is None  # groups of one row
    assert variants.accumulated(file.load("ufm_base:joint"), 4, 8, []) == {"accumulate": 4}


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_compiled(
    told, refusing, tmp_path
):
    (tmp_path / "file").touch()
    status, said = told(UFM, f"--json={tmp_path / 'file' / 'plan.json'}")
    assert status == 2 and not refusing
    assert f"refused: --json={tmp_path / 'file' / 'plan.json'} cannot be written: " in said
    kept = tmp_path / "plans" / "of" / "mine.json"
    assert told(UFM, "--no-search", *batch(16), f"--json={kept}")[0] == 2
    assert len(refusing) == 1 and kept.exists()  # a folder that was missing is made
