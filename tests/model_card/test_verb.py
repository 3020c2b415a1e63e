"""`unified-fm card` of a tiny run, and what an export writes beside its weights."""

import json

import pytest
from huggingface_hub import ModelCard

from tests.inference import runs
from tests.model_card.test_card import BOARD
from unified_fm import cli
from unified_fm.config import file as config_file
from unified_fm.scoreboard import fit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return runs.make(tmp_path_factory.mktemp("tiny"))


def test_a_run_with_a_scoreboard_that_started_from_it(run, tmp_path, capsys):
    board = tmp_path / "scoreboard.json"
    board.write_text(BOARD.read_text().replace("da4d4aa237c8", fit.checkpoint_hash(str(run))))
    given = [f"--run={run}", f"--scoreboard={tmp_path}", "--license=mit", "--name=tiny"]
    given.append("--language=en")
    assert cli.main(["card", *given]) == 0
    assert capsys.readouterr().out == f"wrote {run / 'README.md'}\n"
    text = (run / "README.md").read_text()
    read = ModelCard(text).data
    assert (read.license, read.language, read.datasets) == ("mit", "en", ["records"])
    assert len(read.eval_results) == 5
    info = json.loads((run / "config.json").read_text())
    assert f"| `text` | {info['model']['text']['layers']} layers of width 16, 2 heads |" in text
    assert "| pairs | `jsonl:records.jsonl` | 8 | `" in text
    assert "- `answer`: no head or decoder for answers" in text
    assert str(tmp_path.parent) not in text

    again = text.partition("```python\nimport pathlib")[2].partition("```")[0]
    (run / "again.py").write_text(f"import pathlib{again}")
    settings = config_file.load(str(run / "again.py"))
    assert json.loads(json.dumps(settings.plain())) == info


def test_a_scoreboard_of_another_checkpoint_is_an_error(run, tmp_path, capsys):
    out = tmp_path / "README.md"
    given = [f"--run={run}", f"--scoreboard={BOARD.parent}", f"--out={out}"]
    assert cli.main(["card", *given]) == 1
    assert "its numbers say nothing about this one" in capsys.readouterr().err
    assert not out.exists()


def test_an_export_has_a_card_and_leaves_one_that_was_written_by_hand(run, tmp_path, capsys):
    out = tmp_path / "vision"
    export = ["convert", "export", f"--checkpoint={run}", "--to=hf-beit"]
    assert cli.main([*export, f"--out={out}"]) == 0, capsys.readouterr().err
    text = (out / "README.md").read_text()
    read = ModelCard(text).data
    assert (read.library_name, read.pipeline_tag) == ("transformers", "image-feature-extraction")
    assert "| regions | `jsonl:records.jsonl` | 8 | `" in text
    (out / "README.md").write_text("# Mine\n")
    assert cli.main([*export, f"--out={out}"]) == 0
    assert "stays as it is" in capsys.readouterr().out
    assert (out / "README.md").read_text() == "# Mine\n"
