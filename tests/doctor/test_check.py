"""The data doctor against a training run: the same records, the same reasons, the same counts."""

import json
import logging
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.doctor import bad_records
from unified_fm import cli
from unified_fm.data import skips
from unified_fm.data.streams import Streams, stream
from unified_fm.doctor import check, choosing, pool, summary
from unified_fm.doctor.reading import Job, Reading

ROOT = pathlib.Path(__file__).parents[2]
SIZES = dict(size=16, patch_size=8, max_len=12, max_skip=0.9)
STREAMS = {
    "regions": stream("regions", "", 8, images=4, num_masked=0, **SIZES),
    "pairs": stream("image_text", "", 6, num_masked=2, **SIZES),
    "text": stream("text", "", 6, max_len=12, max_skip=0.9),
}


@pytest.fixture
def written(tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    return bad_records.write(folder)


def job_of(written, name, **changes):
    return choosing.job_of(written.source, STREAMS, seed=3, stream=name, **changes)


def checked(job, out, **options):
    options = {"processes": 0, "lengths": True, "configured": True, "quiet": True, **options}
    outcome = check.check(job, out, **options)
    return outcome, json.loads((out / "check.json").read_text())


def named(reasons):
    """{record: reason} of a list in check.json."""
    return {record["record"]: reason for reason, e in reasons.items() for record in e["records"]}


def test_row_15_16_17_24_25_every_bad_record_is_named(written, tmp_path):
    outcome, made = checked(job_of(written, "regions"), tmp_path / "out")
    assert named(made["skipped"]) == written.skipped
    assert named(made["parts"]["dropped"]) == written.dropped
    left_out = [
        (each["reason"], each["file"].partition(": ")[0]) for each in made["files"]["left out"]
    ]
    assert left_out == written.files
    records = made["records"]
    assert records["used"] == records["in the source"] - len(written.skipped)
    assert records["failed"] == 0 and "unmeasured" not in made
    (cut, _) = made["skipped"]["truncated or damaged image"]["records"]
    folder = tmp_path / "bad"
    assert cut["place"] == f"{folder}/pairs.jsonl, line {cut['record'] + 1}"
    assert cut["image"] == f"{folder}/cut.jpg"
    (url,) = made["skipped"]["image is a URL"]["records"]
    assert url["detail"].startswith("https://example.org/1.jpg; nothing is downloaded")
    assert outcome.made["pictures"]["odd"] == {
        "animated, or with pages: the first is taken": 2,
        "with a palette or transparent: laid over white": 2,
        "of 16 bits or more a pixel: the high 8 are taken": 1,
        "in CMYK: converted": 1,
        "turned by EXIF": 1,
    }


@pytest.mark.parametrize("name", STREAMS)
def test_row_15_a_run_counts_the_same(written, tmp_path, caplog, monkeypatch, name):
    monkeypatch.setattr(skips, "_LINE_EVERY", 0.0)
    monkeypatch.setattr(logging.getLogger("unified_fm"), "propagate", True)
    caplog.set_level(logging.INFO, logger="unified_fm")
    config = STREAMS[name] | {"source": written.source}
    streams = Streams({name: config}, seed=3, tokenizer="bytes")
    line = None
    while line is None:  # to the end of the first epoch
        next(streams)
        line = re.search(rf"stream '{name}', end of epoch 1: (.*)", caplog.text)
    streams.close()
    _, made = checked(job_of(written, name), tmp_path / "out")
    records, dropped = made["records"], made["parts"]["dropped"]
    said = f"{records['used']:,} used, {records['skipped']:,} skipped"
    assert line[1].startswith(said)
    counts = {reason: e["count"] for reason, e in (made["skipped"] | dropped).items()}
    assert len(counts) >= 3
    for reason, count in counts.items():
        assert re.search(rf"[(,] ?{count} {re.escape(reason)}[,)]", line[1]), reason
    listed = ",".join(re.findall(r"\((.*?)\)", line[1]))
    assert sum(counts.values()) == sum(map(int, re.findall(r"(\d+) [a-z]", listed)))


def test_it_goes_on_after_an_interruption(written, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "PART", 8)
    reading = Reading(job_of(written, "regions"))

    def read(state=None, stop=1000):
        said = []

        found = pool.read_all(
            reading,
            {"of": 1},
            processes=0,
            state=state,
            say=lambda done, of: said.append(done),
            stop=lambda: said[-1] >= stop,
        )
        return summary.of(reading, found, lengths=True, configured=True), said

    whole, _ = read()
    state = tmp_path / "state.npz"
    with pytest.raises(pool.Stopped, match="stopped after 24 of 66 records"):
        read(state, stop=20)
    assert state.exists()
    resumed, said = read(state)
    assert said[0] == 24
    del whole["speed"], resumed["speed"]
    assert resumed == whole


def test_what_was_read_is_kept_until_it_is_written_down(written, tmp_path, monkeypatch):
    job, out = job_of(written, "text"), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(check.page, "write", None)  # as a kill would end it
        with pytest.raises(TypeError):
            checked(job, out)
    (out / "check.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Reading, "read", None)
        outcome, _ = checked(job, out)
    assert outcome.made["records"]["read"] == 66
    assert not (out / "check.state.npz").exists()


def test_pictures_that_another_source_has_too_are_named(tmp_path, capsys):
    for name, numbers in (("test", (0, 1, 2, 3)), ("train", (9, 1, 8, 2))):
        folder = tmp_path / name
        folder.mkdir()
        for place, number in enumerate(numbers):
            side = 90 if (name, number) == ("train", 2) else 120  # it only looks the same
            bad_records.picture(number, side).save(folder / f"{place}.png")
        lines = [json.dumps({"image": f"{k}.png", "text": f"of {name}"}) for k in range(4)]
        (folder / "x.jsonl").write_text("\n".join(lines))
    test, train = (f"jsonl:{tmp_path}/{name}/x.jsonl" for name in ("test", "train"))
    out = tmp_path / "out"
    given = ["data", "check", test, f"--out={out}", "--quiet", "--jobs=0"]
    assert cli.main([*given, f"--against={train}"]) == 1
    said = capsys.readouterr().out
    assert f"mar: 2 of 4 pictures (50 %) are among the 4 of {train}: 1 the same, 1 look" in said
    found = [json.loads(line) for line in (out / "against.jsonl").read_text().splitlines()]
    assert [(each["record"], each["there"]["record"], each["how"]) for each in found] == [
        (1, 1, "the same"),
        (2, 3, "looks the same"),
    ]
    assert found[0]["there"]["place"] == f"{tmp_path}/train/x.jsonl, line 2"
    assert json.loads((out / "check.json").read_text())["against"]["records"] == found
    assert {path.name for path in out.iterdir()} == {"check.json", "check.html", "against.jsonl"}
    assert cli.main([*given, "--against=demo:nowhere"]) == 2


def test_a_record_is_named_by_its_own_image(written):
    reading = Reading(job_of(written, "regions"))
    _ = reading.source[3]  # as whoever looks at the data before they are read
    assert reading.named(3, "")["image"].endswith("/3.jpg")
    assert reading.named(4, "")["image"] == ""  # of a process that ended, nothing is known


def test_weights_are_of_the_configs_own_sources(written):
    streams = {"text": STREAMS["text"] | {"source": ["jsonl:a", "jsonl:b"], "weights": [3, 1]}}
    one = written.source.partition("+")[0]
    assert Reading(choosing.job_of(one, streams, stream="text")).loader.entry.weights is None


def test_a_text_that_an_image_has_twice_is_no_copy(tmp_path):
    bad_records.picture(0).save(tmp_path / "a.png")
    twice = [{"box": [1, 1, 9, 9], "text": text} for text in ("a cup", "A cup", "a dog")]
    lines = [{"image": "a.png", "regions": twice, "text": f"image {k}"} for k in range(2)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    job = choosing.job_of(f"jsonl:{tmp_path}/x.jsonl", STREAMS, stream="regions")
    outcome, _ = checked(job, tmp_path / "out")
    texts = outcome.made["copies"]["texts"]
    assert (texts["of"], texts["groups"], texts["copies"]) == (6, 2, 2)
    assert outcome.made["texts"]["texts"] == 8  # but its length counts each time


def test_row_18_a_hostile_tar_among_others_is_refused_and_named(tmp_path, capsys):
    for tar, found in bad_records.hostile_tars(tmp_path / "tars").items():
        source = f"webdataset:{tar.parent}/*.tar"
        assert cli.main(["data", "check", source, f"--out={tmp_path}/out", "--quiet"]) == 2
        said = capsys.readouterr().err
        refused = said.splitlines()[-1]  # behind what the log of a test before it may say
        assert refused.startswith(f"refused: {tar}, byte ") and found in refused, said
        with pytest.raises(ValueError, match=found):  # and so by a run
            Streams({"pairs": STREAMS["pairs"] | {"source": source}}, seed=0, tokenizer="bytes")
    assert not (tmp_path / "out").exists() and not list(tmp_path.parent.glob("outside*"))


def test_a_state_of_other_data_is_not_gone_on_with(written, tmp_path, capsys):
    reading = Reading(job_of(written, "text"))
    state = tmp_path / "state.npz"
    pool.findings.save(state, reading.read(0, 9), {"fingerprint": {"of": 2}, "done": 9})
    found = pool.read_all(reading, {"of": 1}, processes=0, state=state)
    assert found.table("records")["read"] == reading.records
    assert "is of other data or other settings" in capsys.readouterr().err
    state.write_bytes(b"PK\x03\x04 cut")
    pool.read_all(reading, {"of": 1}, processes=0, state=state)
    assert "is no state of a check" in capsys.readouterr().err


@pytest.mark.slow
def test_row_02_a_signal_leaves_a_state_with_which_the_next_call_goes_on(tmp_path):
    (tmp_path / "x.jsonl").write_text("\n".join(f'{{"text": "a text {k}"}}' for k in range(6_000)))
    command = [sys.executable, "-c", "from unified_fm import cli; raise SystemExit(cli.main())"]
    command += ["data", "check", f"jsonl:{tmp_path}/x.jsonl", f"--out={tmp_path}/out", "--jobs=1"]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert b"0 of 6,000 records" in first.stderr.readline()
    time.sleep(0.5)
    first.send_signal(signal.SIGTERM)
    out, _ = first.communicate(timeout=60)
    assert first.returncode == 130
    done = re.match(r"stopped after ([\d,]+) of 6,000 records; the same", out.decode())
    assert (tmp_path / "out" / "check.state.npz").exists()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert f"{done[1]} of 6,000 records" in again.stderr.splitlines()[0]
    made = json.loads((tmp_path / "out" / "check.json").read_text())
    assert made["records"]["read"] == made["records"]["used"] == made["texts"]["texts"] == 6_000
    assert not (tmp_path / "out" / "check.state.npz").exists()


@pytest.mark.slow
def test_any_number_of_processes_finds_the_same(written, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "PART", 16)
    made = {}
    for processes in (0, 1, 2):
        outcome, _ = checked(
            job_of(written, "regions"), tmp_path / str(processes), processes=processes
        )
        made[processes] = {name: x for name, x in outcome.made.items() if name != "speed"}
    assert made[1] == made[2] == made[0]


@pytest.mark.slow
def test_row_26_a_record_that_ends_its_process_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "PART", 4)
    job = Job(stream="text", entry=choosing.Entry.of("text", STREAMS["text"] | {
        "source": "tests.doctor.fatal_source:100"}))  # fmt: skip
    outcome, made = checked(job, tmp_path, processes=2)
    assert named(made["failed"]) == {
        70: "the process ended while reading it (a crash, or no memory)",
        75: "KeyError in the source or the pipeline",
    }
    assert made["records"]["read"] == 100 and made["records"]["used"] == 98
    assert outcome.status == 1 and "would stop" in outcome.verdict
    assert "record 70" in (tmp_path / "check.html").read_text()


@pytest.mark.slow
def test_row_26_processes_that_cannot_open_the_source_are_no_fault_of_its_records(tmp_path):
    job = Job(stream="text", entry=choosing.Entry.of("text", STREAMS["text"] | {
        "source": "tests.doctor.fatal_source:0"}))  # fmt: skip
    with pytest.raises(ChildProcessError, match=r"ended while it opened tests\.doctor\.fatal"):
        checked(job, tmp_path, processes=2)
    outcome, _ = checked(job, tmp_path, processes=0)
    assert outcome.made["records"]["used"] == 20


def test_the_page_needs_nothing_else_and_shows_what_is_refused(written, tmp_path):
    checked(job_of(written, "regions"), tmp_path)
    page = (tmp_path / "check.html").read_text()
    assert not re.search(r"<script|<link|(src|href)=.(?!data:)", page)
    for reason in {*written.skipped.values(), *written.dropped.values()}:
        assert f"<h2>{reason}" in page
    assert page.count('class="predicted"') >= 3  # the bad boxes
    assert "&lt;!DOCTYPE html&gt;" in page or "&lt;html&gt;" in page  # the page that is no picture


def test_row_23_too_few_records_are_said(tmp_path):
    (tmp_path / "few.jsonl").write_text('{"text": "a b"}\n{"text": "c d"}')
    job = choosing.job_of(f"jsonl:{tmp_path}/few.jsonl", STREAMS, stream="text")
    outcome, _ = checked(job, tmp_path / "out")
    assert outcome.status == 1
    assert outcome.remarks[0].says == "2 records are fewer than the 6 of one batch"
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="has 0 records"):
        choosing.job_of(f"jsonl:{tmp_path}/none.jsonl", STREAMS)


def test_the_stream_that_fits_is_chosen(written):
    assert choosing.job_of(written.source, STREAMS).stream == "regions"
    others = {name: STREAMS[name] for name in ("pairs", "text")}
    assert choosing.job_of(written.source, others).stream == "pairs"
    assert choosing.job_of(written.source, {}).entry.pipeline == "regions"
    with pytest.raises(ValueError, match="no stream 'pair'; did you mean 'pairs'"):
        choosing.job_of(written.source, others, stream="pair")
    two = {name: STREAMS["text"] for name in ("a", "b")}
    with pytest.raises(ValueError, match=r"records for the pipeline 'regions', and no stream"):
        choosing.job_of(written.source, two)
