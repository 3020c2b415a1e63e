"""A conversion by many processes, by Beam and by Spark: the same bytes, also after a SIGKILL.

Those marked `prepare` need requirements/prepare.txt in a folder of its own and a Java for Spark:
.ci/nightly installs both.
"""

import base64
import contextlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from unified_fm import cli
from unified_fm.data.prepare import manifest

CALL = "import sys; from unified_fm import cli; sys.exit(cli.main())"


def records(path, count):
    """JSON lines with a small picture of its own in each; every hundredth is none."""
    with open(path, "w") as file:
        for k in range(count):
            out = io.BytesIO()
            Image.new("RGB", (16, 12), (k % 256, k // 256, 7)).save(out, "PNG")
            data = b"<html>" if k % 100 == 99 else out.getvalue()
            line = {"id": k, "image": base64.b64encode(data).decode(), "text": f"picture {k}"}
            file.write(json.dumps(line) + "\n")
    return f"jsonl:{path}"


def command(source, out, *more):
    arguments = [source, f"--out={out}", "--resize=8", "--max-skip=0.02", "--quiet", *more]
    return [sys.executable, "-c", CALL, "data", "convert", *arguments]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def alone(source, out, *more):
    """What this process writes by itself."""
    assert cli.main(command(source, out, "--workers=1", *more)[3:]) == 0
    return contents(out)


@pytest.mark.slow
def test_processes_write_what_one_writes(tmp_path):
    source = records(tmp_path / "x.jsonl", 300)
    subprocess.run(command(source, tmp_path / "two", "--shards=8", "--workers=2"), check=True)
    assert contents(tmp_path / "two") == alone(source, tmp_path / "one", "--shards=8")


@pytest.mark.prepare
@pytest.mark.parametrize("runner", ["direct", "spark"])
def test_beam_and_spark_write_what_one_process_writes(runner, tmp_path):
    source = records(tmp_path / "x.jsonl", 300)
    more = ["--shards=8", "--workers=2", f"--runner={runner}"]
    subprocess.run(command(source, tmp_path / "two", *more), check=True)
    assert contents(tmp_path / "two") == alone(source, tmp_path / "one", "--shards=8")


@pytest.mark.prepare
@pytest.mark.parametrize(
    ("runner", "said"), [("direct", "Beam's direct runner: "), ("spark", "Spark: ")]
)
def test_what_a_worker_raises_ends_in_a_sentence(runner, said, tmp_path):
    source = records(tmp_path / "x.jsonl", 20)
    out = tmp_path / "out"
    (out / "data-00001-of-00002.array_record").mkdir(parents=True)  # no file can be put there
    more = ["--shards=2", "--workers=1", f"--runner={runner}"]
    ended = subprocess.run(command(source, out, *more), capture_output=True, text=True)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert not (out / "data.manifest.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["convert", "check"])
def test_a_kill_of_the_command_alone_leaves_no_process_behind(verb, tmp_path):
    source = records(tmp_path / "x.jsonl", 3_000)
    call = [sys.executable, "-c", CALL, "data", verb, source, f"--out={tmp_path}/out", "--quiet"]
    call += ["--shards=64", "--workers=2"] if verb == "convert" else ["--jobs=2"]
    started = subprocess.Popen(call, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(members := of_session(started.pid)) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)  # itself, multiprocessing's tracker, and two that work
    assert len(members) >= 4
    time.sleep(1)  # they have begun
    assert started.poll() is None
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    deadline = time.monotonic() + 15
    while (left := of_session(started.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def of_session(number):
    """The processes of a session, but for those that have ended."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            _, _, said = (folder / "stat").read_text().rpartition(")")
            state, _, _, session = said.split()[:4]
            found += [int(folder.name)] if int(session) == number and state != "Z" else []
    return found


@pytest.mark.parametrize(
    ("runner", "count"),
    [
        pytest.param("local", 2_000, marks=pytest.mark.slow),
        pytest.param("direct", 20_000, marks=pytest.mark.prepare),
    ],
)
def test_killed_half_way_it_ends_in_the_same_manifest(runner, count, tmp_path):
    source = records(tmp_path / "x.jsonl", count)
    out, shards = tmp_path / "out", 64
    call = command(source, out, f"--shards={shards}", "--workers=2", f"--runner={runner}")

    started = subprocess.Popen(call, start_new_session=True)
    done = 0
    while done < shards // 2 and started.poll() is None:
        time.sleep(0.01)
        done = len(list((out / ".data-unfinished").glob("0*.json")))
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("*.array_record")}
    assert shards // 2 <= len(kept) < shards
    assert not (out / "data.manifest.json").exists()

    subprocess.run(call, check=True)
    whole = alone(source, tmp_path / "whole", f"--shards={shards}")
    assert contents(out)["data.manifest.json"] == whole["data.manifest.json"]
    assert contents(out) == whole  # and nothing that the kill has left
    found, bad = manifest.read(out / "data.manifest.json"), count // 100
    assert (found["records"], found["skipped"]) == (count - bad, {"not an image": bad})
    # What was done before the kill was not written again, but for a shard or two in the making.
    unchanged = sum(kept[name] == (out / name).stat().st_mtime_ns for name in kept)
    assert unchanged >= len(kept) - 2
