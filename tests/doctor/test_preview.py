"""The page of `data show`: what the model will receive."""

import re

import numpy as np
import pytest

from tests.doctor import bad_records
from unified_fm import cli
from unified_fm.data import tokenizer
from unified_fm.data.streams import stream
from unified_fm.doctor import choosing, preview
from unified_fm.doctor.reading import Reading

BYTES = tokenizer.load("bytes")


def test_each_piece_says_what_masking_made_of_it():
    encoded = BYTES.encode("abcd", 8)  # cls a b c d sep pad pad
    seen = encoded.ids.copy()
    seen[1], seen[2] = BYTES.mask_id, encoded.ids[4]
    row = {
        "text": encoded.ids,
        "text_mask": encoded.mask,
        "text_masked": seen,
        "masked_positions": np.array([1, 2, 3, 0]),
        "masked_ids": np.array([*encoded.ids[1:4], -100]),
    }
    found = preview.tokens(row, BYTES)
    assert [each["piece"] for each in found] == ["<s>", "a", "b", "c", "d", "</s>"]
    kinds = ["special", "masked", "random", "kept", "plain", "special"]
    assert [each["kind"] for each in found] == kinds
    assert [each["seen"] for each in found] == ["<s>", "<mask>", "d", "c", "d", "</s>"]


@pytest.mark.parametrize("pipeline", ["regions", "image_text", "text"])
def test_the_page_shows_records_draws_and_shapes(tmp_path, pipeline):
    written = bad_records.write(tmp_path)
    options = {} if pipeline == "text" else dict(size=16, patch_size=8, num_masked=2)
    options |= dict(images=4) if pipeline == "regions" else {}
    streams = {"s": stream(pipeline, "", 8, max_len=16, **options)}
    reading = Reading(choosing.job_of(written.source, streams, stream="s"))
    preview.write(tmp_path / "x.html", reading, records=40, draws=2, facts={"config": "<b>"})
    page = (tmp_path / "x.html").read_text()
    assert not re.search(r"<script|<link|(src|href)=.(?!data:)|<b>", page)
    assert page.count(">epoch 2<") == 40
    assert "skipped: " in page
    assert page.count('class="tok masked"') > 20
    assert "int32[8 16]" in page
    if pipeline != "text":
        assert page.count('class="hidden"') >= 2 * 2 * 20  # two patches of each draw
        shape = "uint8[4 16 16 3]" if pipeline == "regions" else "uint8[8 16 16 3]"
        assert shape in page
    if pipeline == "regions":
        assert 'class="touched"' in page and 'class="target"' in page


def test_the_verbs_say_what_is_wrong(tmp_path, capsys):
    bad_records.write(tmp_path)
    source = f"jsonl:{tmp_path}/pairs.jsonl"
    out = f"--out={tmp_path}/out"
    assert cli.main(["data", "check", "jsonl:nowhere", out]) == 2
    assert "refused: jsonl:nowhere: no such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["data", "check", source, out, "--config.seed=1"])
    assert "give one with --config" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["data", "refcoco", "x.json", "--to=y", "--config.seed=1"])
    assert "takes no config" in capsys.readouterr().err
    smoke = "--config=xfm_base:smoke"
    chip = ["data", "check", source, out, smoke, "--chips=4", "--chip=v99", "--stream=pairs"]
    assert cli.main(chip) == 2
    assert "v99" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()  # and nothing was read for it
    with pytest.raises(SystemExit):
        cli.main(["data", "check", source, out, "--limit=-5"])
    assert "'-5' is no whole number of at least 0" in capsys.readouterr().err
    missing = ["data", "show", source, smoke, "--tokenizer=nowhere"]
    assert cli.main(missing) == 2
    assert "--tokenizer=bytes shows all but the lengths" in capsys.readouterr().err
    page = f"--out={tmp_path}/show.html"
    assert cli.main(["data", "show", source, smoke, page, "--records=2", "--draws=1"]) == 0
    assert re.search(r"region_mask +bool\[8 16\]", capsys.readouterr().out)


@pytest.mark.slow
def test_the_check_goes_on_and_says_hours_on_chips(tmp_path, capsys):
    written = bad_records.write(tmp_path)
    arguments = ["data", "check", written.source, f"--out={tmp_path}/out", "--jobs=1", "--quiet"]
    arguments += ["--config=xfm_base:smoke", "--chips=4"]
    assert cli.main(arguments) == 1
    said = capsys.readouterr().out
    assert "as stream 'regions' (regions): 66 records read, 55 used, 11 skipped" in said
    assert "stop: 11 of 66 records (17 %) cannot be used" in said
    assert "A run on these data would stop." in said
    text = (tmp_path / "out" / "check.json").read_text()
    assert '"4 x v5e at 40 % of the peak"' in text and '"cores that keep up' in text
    assert not (tmp_path / "out" / "check.state.npz").exists()
