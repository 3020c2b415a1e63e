"""The account of what was skipped: in the log at each epoch's end, by name, within its share."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from unified_fm.data import records, skips
from unified_fm.data.skips import Parts, Skip, Skips, TooManySkips
from unified_fm.data.streams import Streams, batches, stream

SMALL = {"size": 16, "patch_size": 8}


@pytest.fixture
def no_pause(monkeypatch):
    monkeypatch.setattr(skips, "_LINE_EVERY", 0.0)


def write_pairs(folder, count, broken=()):
    """Pairs of which those in `broken` have a cut image; gives the source."""
    out = io.BytesIO()
    Image.new("RGB", (20, 20)).save(out, "JPEG")
    for k in range(count):
        data = out.getvalue()
        (folder / f"{k}.jpg").write_bytes(data[:-100] if k in broken else data)
    lines = [json.dumps({"image": f"{k}.jpg", "text": f"text {k}"}) for k in range(count)]
    (folder / "pairs.jsonl").write_text("\n\n".join(lines))
    return f"jsonl:{folder}/pairs.jsonl"


def opened(source, batch_size, **options):
    config = stream("image_text", source, batch_size, num_masked=0, **SMALL, **options)
    return Streams({"pairs": config}, seed=0, tokenizer="bytes")


def epoch_lines(text):
    return re.findall(r"stream 'pairs', end of (epochs? .*)", text)


def test_D9_each_epoch_ends_with_a_line_of_what_was_skipped(tmp_path, caplog, no_pause):
    streams = opened(write_pairs(tmp_path, 50, broken=(3, 7)), 20)
    for _ in range(2):
        next(streams)
    assert epoch_lines(caplog.text) == []
    next(streams)  # 60 of 50: the first is complete, whatever was loaded ahead
    first = "epoch 1: 48 used, 2 skipped (2 truncated or damaged image)"
    assert epoch_lines(caplog.text) == [first]
    for _ in range(2):
        next(streams)
    (_, second) = epoch_lines(caplog.text)
    # A stand-in is counted in its own slot only: the numbers are those of the records.
    assert second == "epoch 2: 48 used, 2 skipped (2 truncated or damaged image)"
    assert re.match(r"\d+ used, \d+ skipped \(\d+ trunc", streams.skip_lines()["pairs"])
    streams.close()


def test_D9_an_epoch_without_a_skip_says_so(tmp_path, caplog, no_pause):
    streams = opened(write_pairs(tmp_path, 4), 4)
    next(streams)
    assert epoch_lines(caplog.text) == ["epoch 1: 4 used, 0 skipped"]
    streams.close()


def test_D9_short_epochs_share_a_line(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(skips.time, "monotonic", lambda: now[0])
    account = Skips("pairs")
    lines = []
    for epoch in range(6):
        account.use(epoch=epoch)
        account.skip(Skip("empty text"), str, epoch=epoch)
        now[0] += 4
        lines.append(account.end_epoch(epoch))
    first = "stream 'pairs', end of epoch 1: 1 used, 1 skipped (1 empty text)"
    third = "stream 'pairs', end of epochs 2 to 4: 3 used, 3 skipped (3 empty text)"
    assert lines == [first, None, None, third, None, None]
    assert account.line() == "6 used, 6 skipped (6 empty text)"


def test_D9_parts_of_a_skipped_record_are_in_the_line_of_its_epoch(no_pause):
    account, parts = Skips("pairs", max_skip=1.0), Parts(seen=2)
    parts.drop("box below one pixel")
    account.skip(Skip("no usable region", parts=parts), str, epoch=0)
    line = account.end_epoch(0)
    assert line.endswith(": " + account.line())
    assert line.endswith("; 1 of 2 parts dropped (1 box below one pixel)")


def test_D9_cycles_are_counted_by_epochs_too(tmp_path, caplog, no_pause):
    streams = opened(write_pairs(tmp_path, 4), 4, cycle=1)
    for _ in range(3):
        next(streams)
    assert epoch_lines(caplog.text) == [f"epoch {k}: 4 used, 0 skipped" for k in (1, 2, 3)]
    streams.close()


def test_D9_what_was_read_before_a_resume_is_not_counted(tmp_path, caplog, no_pause):
    source = write_pairs(tmp_path, 50, broken=(3, 7))
    stopped = opened(source, 10)
    for _ in range(4):
        next(stopped)
    state = stopped.state()
    stopped.close()
    resumed = opened(source, 10)
    next(resumed)
    resumed.restore(state)
    next(resumed)
    (line,) = epoch_lines(caplog.text)
    used, skipped = map(int, re.match(r"epoch 1: (\d+) used, (\d+) skipped", line).groups())
    assert used + skipped == 10  # those since the run was continued
    resumed.close()


@pytest.mark.parametrize("kind", ["jsonl", "folder", "array_record", "joined"])
def test_D9_a_skip_names_file_and_image(tmp_path, caplog, kind):
    source = write_pairs(tmp_path, 3, broken=(1,))
    if kind == "folder":
        for k in range(3):
            (tmp_path / f"{k}.txt").write_text("a text")
        source = f"folder:{tmp_path}"
        expected = f"record 1 of {source} (image {tmp_path}/1.jpg): truncated"
    if kind == "array_record":
        examples = [{"image": f"{tmp_path}/{k}.jpg", "text": "x"} for k in range(3)]
        paths = records.write_shards(tmp_path / "s", examples, per_shard=1)
        source = f"array_record:{tmp_path}/s"
        expected = f"record 1 of {source} ({paths[1]}, its record 0, image {tmp_path}/1.jpg): trunc"
    if kind == "jsonl":  # with blank lines in between
        expected = (
            f"record 1 of {source} ({tmp_path}/pairs.jsonl, line 3, image {tmp_path}/1.jpg): trunc"
        )
    if kind == "joined":
        source = f"synthetic:pairs:2+{source}"
        expected = f"record 3 of {source} ({tmp_path}/pairs.jsonl, line 3, image {tmp_path}/1.jpg)"
    config = stream("image_text", source, 5, num_masked=0, **SMALL)
    (batch,) = batches(config, tokenizer="bytes")
    good = int(batch["weight"].sum())
    assert f"stream 'evaluation' skips {expected}" in caplog.text
    assert f"evaluation: {good} used, 1 skipped" in caplog.text  # the table at the end


def test_D9_a_dropped_part_names_file_and_image(tmp_path, caplog):
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "1.png")
    found = [{"box": [0, 0, 9, 9], "text": "good"}, {"box": [0, 0, -9, 9], "text": "bad"}]
    (tmp_path / "r.jsonl").write_text(json.dumps({"image": "1.png", "regions": found}))
    source = f"jsonl:{tmp_path}/r.jsonl"
    config = stream("regions", source, 1, images=1, max_len=8, **SMALL)
    list(batches(config, tokenizer="bytes"))
    where = f"record 0 of {source} ({tmp_path}/r.jsonl, line 1, image {tmp_path}/1.png)"
    assert f"drops a part of {where}: box of zero or negative size" in caplog.text
    assert "1  (part) box of zero or negative size" in caplog.text


def test_names_are_only_made_for_the_lines_that_are_written():
    account = Skips("pairs", max_skip=1.0)
    named = []

    def name():
        named.append(1)
        return "record"

    for _ in range(100):
        account.skip(Skip("empty text"), name)
    assert len(named) == 5
    account.use(Parts(seen=3), record=name)
    assert len(named) == 5


def test_parts_and_records_have_a_share_each():
    account = Skips("pairs", max_skip=0.5, minimum=10)
    for _ in range(5):
        account.skip(Skip("empty text"), str)
    parts = Parts(seen=5)
    parts.dropped["box outside its image"] = 5
    account.use(parts)  # five of ten that are reckoned with
    with pytest.raises(TooManySkips, match="6 of 6 parts"):
        account.use(Parts(1, parts.dropped.__class__({"box below one pixel": 1})))
