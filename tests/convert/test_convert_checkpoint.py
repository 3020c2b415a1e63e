"""The command line: import, verify, export to every kind, and back."""

import json

import numpy as np
import pytest

from tests.convert.test_parity import read
from tests.convert.test_xfm import GOLDEN
from unified_fm.checkpoint import store as checkpoint
from unified_fm.commands.convert import main
from unified_fm.convert.readers.safetensors_file import open_safetensors, write_safetensors
from unified_fm.convert.readers.weights import open_weights
from unified_fm.convert.table import flatten


def folder(name, where):
    """A golden module as `save_pretrained` writes it."""
    config, params, _, _ = read(name)
    where.mkdir()
    write_safetensors(where / "model.safetensors", params, {"format": "pt"})
    (where / "config.json").write_text(json.dumps(config))
    (where / "vocab.txt").write_text("[PAD]\n")
    return config, params


def same_values(written, config):
    """What the export says agrees with what was there."""
    for key, value in written.items():
        assert key not in config or value == config[key], key
    sizes = {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"}
    assert "text_config" in config or sizes <= written.keys() & config.keys()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bert_small", "hf-bert"),
        ("roberta_small", "hf-roberta"),
        pytest.param("vit_small", "hf-vit", marks=pytest.mark.slow),
        pytest.param("beit_small", "hf-beit", marks=pytest.mark.slow),
        pytest.param("clip_odd", "hf-clip", marks=pytest.mark.slow),
    ],
)
def test_import_and_export_give_back_the_folder(name, kind, tmp_path, capsys):
    config, params = folder(name, tmp_path / "hf")
    family = name.split("_")[0]
    ours, out = str(tmp_path / "ours"), str(tmp_path / "out")
    arguments = ["import", f"--from={family}", f"--file={tmp_path / 'hf'}", f"--to={ours}"]
    assert main([*arguments, "--verify"]) == 0
    assert "largest difference 0\n" in capsys.readouterr().out
    tokenizer = f"--tokenizer={tmp_path / 'hf'}"
    arguments = ["export", f"--checkpoint={ours}", f"--to={kind}", f"--out={out}"]
    assert main([*arguments, tokenizer]) == 0
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    for tower in ("text_config", "vision_config") if family == "clip" else ():
        same_values(written.pop(tower), config[tower])
    same_values(written, config)
    assert (tmp_path / "out" / "vocab.txt").exists()
    said = (tmp_path / "out" / "README.md").read_text()
    assert "library_name: transformers\n" in said and f"exported as `{kind}`" in said
    back = open_weights(tmp_path / "out")
    values = sorted(value.tobytes() for value in params.values())
    assert sorted(back[key].tobytes() for key in back) == values


@pytest.mark.slow
def test_xfm_and_npz(tmp_path, capsys):
    with np.load(GOLDEN, allow_pickle=False) as file:
        params = {k.removeprefix("params/"): file[k] for k in file.files if k.startswith("params/")}
    write_safetensors(tmp_path / "x.safetensors", params)
    ours, out = str(tmp_path / "ours"), str(tmp_path / "x_out.safetensors")
    source = f"--file={tmp_path / 'x.safetensors'}"
    assert main(["import", "--from=xfm", source, f"--to={ours}"]) == 0
    assert main(["export", f"--checkpoint={ours}", "--to=xfm", f"--out={out}"]) == 0
    assert "22 filled:" in capsys.readouterr().out
    name = "fusion_encoder.roberta.embeddings.word_embeddings.weight"
    np.testing.assert_array_equal(open_safetensors(out)[name], params[name])
    # The vision encoder alone goes to a BEiT folder, the language encoder to a RoBERTa one.
    for kind in ("hf-beit", "hf-roberta"):
        target = str(tmp_path / kind)
        assert main(["export", f"--checkpoint={ours}", f"--to={kind}", f"--out={target}"]) == 0


@pytest.mark.slow
def test_npz_goes_out_and_comes_back(tmp_path):
    folder("vit_small", tmp_path / "hf")
    ours, out = str(tmp_path / "ours"), str(tmp_path / "out.npz")
    assert main(["import", "--from=vit", f"--file={tmp_path / 'hf'}", f"--to={ours}"]) == 0
    assert main(["export", f"--checkpoint={ours}", "--to=npz", f"--out={out}"]) == 0
    again = str(tmp_path / "again")
    assert main(["import", "--from=augreg", f"--file={out}", f"--to={again}"]) == 0
    first, second = (flatten(checkpoint.load_params(d)) for d in (ours, again))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[path], second[path]) for path in first)


def test_errors_are_one_line_and_a_status(tmp_path, capsys):
    folder("bert_small", tmp_path / "hf")
    source = f"--file={tmp_path / 'hf'}"
    assert main(["import", "--from=roberta", source, f"--to={tmp_path / 'o'}"]) == 1
    assert "ConversionError: names do not fit the table:" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
