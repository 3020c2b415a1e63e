"""What `unified-fm show` prints of a config before it is run."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from unified_fm import cli
from unified_fm.commands import _batch
from unified_fm.config import file
from unified_fm.data import tokenizer as tokenizers

CONFIG = f"--config={pathlib.Path(__file__).parent / 'tiny_config.py'}"


def test_config_prints_every_setting_as_it_is_overridden(capsys):
    assert cli.main(["show", "config", CONFIG, "--config.optimizer.lr=0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "optimizer.lr = 0.5" in lines
    assert "optimizer.b2 = 0.98" in lines  # a default
    assert "streams.image.objectives.mim.weight = 0.5" in lines


def test_config_as_json_is_the_settings(capsys):
    assert cli.main(["show", "config", CONFIG, "--json", "--config.seed=4"]) == 0
    settings = file.load(CONFIG.removeprefix("--config="), ["seed=4"])
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(settings.plain()))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.seeed=4", "refused: config has no key 'seeed'; did you mean 'seed'?"),
        ("--config.seed", "'--config.seed' is neither a flag nor --config.KEY=VALUE"),
        ("--oot=x", "'--oot=x' is neither a flag nor"),
    ],
)
def test_what_cannot_work_is_refused(argument, message, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["show", "config", CONFIG, argument])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_batch_prints_shapes_and_draws_a_picture(tmp_path, capsys):
    out = tmp_path / "batch.png"
    assert cli.main(["show", "batch", CONFIG, f"--out={out}", "--rows=2"]) == 0
    said = capsys.readouterr().out
    assert "image               uint8[8 16 16 3]          0 .. 255\n" in said
    assert "masked_positions" in said
    assert said.endswith(f"wrote {out}\n")
    width, height = Image.open(out).size
    assert 2 * 100 < width < height


def test_batch_refuses_another_kind_of_picture(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["show", "batch", CONFIG, f"--out={tmp_path / 'batch.gif'}"])
    assert end.value.code == 1
    assert "possible: .png, .svg" in capsys.readouterr().err


def test_hidden_patches_are_tinted_and_regions_show_their_image():
    image = np.full((2, 4, 4, 3), 90, np.uint8)
    mask = np.zeros((2, 4), bool)
    mask[1, 2] = True
    batch = {"image": image, "patch_mask": mask, "image_index": np.array([1, 1, 0])}
    shown = _batch._image(batch, 0)
    changed = (shown != 90).any(-1)
    assert changed.tolist() == [[False] * 4] * 2 + [[True, True, False, False]] * 2
    assert (_batch._image(batch, 2) == 90).all()
    assert _batch._image({"images": image[None]}, 0).shape == (4, 8, 3)
    assert _batch._image({"text": mask}, 0) is None


def test_words_are_the_label_the_text_and_what_is_masked_of_it():
    tokenizer = tokenizers.load("bytes")
    ids = tokenizer.encode("a $b", 8)
    batch = {"text": ids.ids[None], "text_mask": ids.mask[None], "label": np.array([3])}
    label, text = _batch._words(batch, 0, tokenizer)
    assert label == "label 3"
    assert text == "a \\$b"


def test_S1_a_picture_shows_the_image_of_its_row_in_every_group():
    batch = {"image": np.zeros((4, 2, 2, 3)), "image_index": np.array([0, 1, 1, 1, 0, 0])}
    counted = _batch.counted(batch, groups=2)
    assert counted["image_index"].tolist() == [0, 1, 1, 3, 2, 2]
