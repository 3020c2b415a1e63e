"""A run from a bucket into a bucket is the run from a folder into a folder.

The clients are the real ones: `gcsfs`, TensorStore, the reader of ArrayRecord (see
requirements/buckets.txt).
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests import fake_gcs, one_device
from unified_fm.data import records

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parents[1]
WHY = "pip install -r requirements/buckets.txt"
ENVIRONMENT = os.environ | {"XLA_FLAGS": one_device.FLAGS, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def python(*arguments, **environment):
    """What a Python process prints."""
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


@pytest.mark.nightly
def test_all_files_of_a_run_in_a_bucket(tmp_path):
    """Texts, tokenizer, teacher, its cache, workdir: interrupted there, and undisturbed here."""
    pytest.importorskip("gcsfs", reason=WHY)
    train = ["-m", "unified_fm.main", "--config=tests/bucket_run.py"]
    there, here = "gs://bucket/tiny", str(tmp_path / "tiny")
    with fake_gcs.running() as server:
        environment = server.environment | {"BUCKET_RUN": there}
        python("-m", "tests.bucket_run", "make", **environment)
        for (_, name), (_, content) in server.objects.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("about.json"):  # the cache is of data at this place
                content = content.replace(there.encode(), here.encode())
            (tmp_path / name).write_bytes(content)
        for steps in (2, 4):
            python(*train, f"--workdir={there}/run", f"--config.total_steps={steps}", **environment)
        python(*train, f"--workdir={here}/run", BUCKET_RUN=here)
        shown = python("-m", "tests.bucket_run", "show", there, here, **environment)
        names = [name for _, name in server.objects]
    assert any(name.startswith("tiny/run/checkpoints/4/") for name in names)
    from_bucket, from_folder = map(json.loads, shown.splitlines())
    assert from_bucket == from_folder
    assert len(from_bucket["losses"]) == 4 and from_bucket["assets"] == ["assets.json", "tokenizer"]


READ = """
import json, sys
from unified_fm.data.source import open_source
source = open_source(sys.argv[1])
found = [source[k] for k in range(len(source))]
print(json.dumps([[each["text"], len(each["image"])] for each in found]))
"""


@pytest.mark.parametrize("form", ["array_record:%s/p", "webdataset:%s/{0..1}.tar", "csv:%s/a.csv"])
def test_sources_by_the_clients_of_google(tmp_path, form):
    pytest.importorskip("gcsfs", reason=WHY)
    from tests.data import tar_files

    records.write_shards(tmp_path / "p", ({"text": f"{k}", "image": b"jpeg"} for k in range(5)))
    for k in range(2):
        tar_files.write_shard(tmp_path / f"{k}.tar", k, 3)
    (tmp_path / "a.csv").write_text('text,image\n"two\nlines",anBlZw==\n')
    with fake_gcs.running() as server:
        for file in tmp_path.iterdir():
            server.put("bucket", f"own/{file.name}", file.read_bytes())
        cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        there = python("-c", READ, form % "gs://bucket/own", **server.environment, **cache)
    assert there == python("-c", READ, form % tmp_path)
    assert len(json.loads(there)) == {"a": 5, "w": 6, "c": 1}[form[0]]
