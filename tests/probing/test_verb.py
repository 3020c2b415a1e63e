"""`unified-fm probe` on a folder of pictures: its files, its rerun, its refusals."""

import json

import jax
import pytest

from tests.probing import pictures
from unified_fm import cli


def probe(folder, *more: str) -> int:
    return cli.main(["probe", f"--source=folder:{folder / 'colours'}", "--out=out", *more])


@pytest.mark.slow
def test_all_methods_on_a_folder_and_nothing_twice(workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    jax.config.update("jax_disable_most_optimizations", True)
    pictures.write_folder(tmp_path / "colours")
    given = [f"--run={workdir}", "--methods=linear,knn,mlp5,zero-shot", "--rerank=2"]
    given += ["--epochs=3", "--lr=1e-3", "--name=colours"]
    assert probe(tmp_path, *given) == 0
    first, said = json.loads((tmp_path / "out" / "probe.json").read_text()), capsys.readouterr()
    assert "180 pictures encoded" in said.err  # 90, before and after the projection
    [row] = first["rows"]
    assert [*row["methods"]] == ["linear", "knn", "mlp5", "zero-shot"]
    assert row["trivial"] in row["baselines"] and len(row["baselines"]) == 3
    for method, found in row["methods"].items():
        value = found["metrics"]["accuracy"]
        assert 0 <= value["ci95"][0] <= value["value"] <= value["ci95"][1] <= 1
        path = tmp_path / "out" / "predictions" / f"colours.{method}.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        right = [line["prediction"][0] == line["truth"] for line in lines]
        assert (len(lines), sum(right) / len(right)) == (found["n"], value["value"])
    linear = row["methods"]["linear"]["metrics"]["accuracy"]
    assert linear["value"] > linear["chance"]
    assert "C" in row["methods"]["linear"]["settings"]
    assert "| colours | " in (tmp_path / "out" / "probe.md").read_text()
    assert said.out.splitlines()[0].split()[:4] == ["set", "test", "metric", "chance"]

    assert probe(tmp_path, *given) == 0  # as it was: nothing is made
    told = capsys.readouterr().err
    assert "0 pictures encoded" in told and told.count("kept from before") == 7
    assert json.loads((tmp_path / "out" / "probe.json").read_text()) == first

    (tmp_path / "out" / "results" / "colours.knn.json").unlink()  # as if it had been stopped
    assert probe(tmp_path, *given) == 0
    told = capsys.readouterr().err
    assert "0 pictures encoded" in told and told.count("kept from before") == 6
    again = json.loads((tmp_path / "out" / "probe.json").read_text())["rows"][0]["methods"]["knn"]
    assert again["metrics"] == row["methods"]["knn"]["metrics"]

    pictures.write_folder(tmp_path / "colours", {"red": 31}, seed=1)  # other data
    assert probe(tmp_path, *given[:1], "--methods=knn", "--no-baselines") == 0
    assert "91 pictures encoded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sets=pets"], "pets is not there: tfds:oxford_iiit_pet:train is not there as"),
        (["--sets=gtsrb,pets"], "gtsrb is not there: folder:data/gtsrb/train: no such folder"),
        (["--sets=all"], "tfds build food101"),
        (["--sets=pet"], "did you mean 'pets'?"),
        ([], "one of --sets=NAME,... and --source=SOURCE is needed"),
        (["--sets=pets", "--test=folder:x"], "--test, --validation, --metric and --name go with"),
        (["--source=folder:x"], "own is not there: folder:x: no such folder"),
        (["--source=folder:x", "--methods=knnn"], "no 'knnn'; possible: linear, knn, mlp5"),
        (["--source=folder:x", "--rerank=1"], "--rerank is 0, or at least 2"),
    ],
)
def test_what_is_not_there_is_said_before_a_checkpoint_is_read(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert cli.main(["probe", "--run=none", *arguments]) == 1
    assert message in capsys.readouterr().err
