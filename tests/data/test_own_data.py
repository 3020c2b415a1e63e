"""`own_data:smoke` on files of every kind, told by one string."""

import functools
import io
import json
import re
import tarfile

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tests.data import tar_files
from unified_fm import cli, main, sharding

COUNT = 50
COLOURS = ("red", "green", "blue", "grey", "white")


def picture(number):
    """A PNG whose colour its caption names."""
    out = io.BytesIO()
    value = [(200, 30, 30), (30, 170, 60), (50, 70, 220), (90, 90, 90), (240, 240, 240)][number % 5]
    pixels = np.empty((40, 60, 3), np.uint8)
    pixels[:] = value
    pixels[:, number % 60] = number  # every one is another
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def caption(number):
    return f"a {COLOURS[number % 5]} wall, number {number}"


def folder(root):
    for k in range(COUNT):
        (root / f"{k}.png").write_bytes(picture(k))
        (root / f"{k}.txt").write_text(f"{caption(k)}\nsomething {COLOURS[k % 5]}")
    return f"folder:{root}"


def boxes(root):
    lines = []
    for k in range(COUNT):
        (root / f"{k}.png").write_bytes(picture(k))
        region = {"box": [5, 5, 30, 20], "text": COLOURS[k % 5]}
        lines.append({"image": f"{k}.png", "text": caption(k), "regions": [region], "id": k})
    (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return f"jsonl:{root / 'pairs.jsonl'}"


def converted(root):
    (root / "pictures").mkdir()
    to = ["--shards=4", "--workers=1", "--quiet", f"--out={root / 'shards'}"]
    assert cli.main(["data", "convert", folder(root / "pictures"), "--resize=32", *to]) == 0
    return f"array_record:{root / 'shards' / 'data'}"


def table(root):
    (root / "img").mkdir()
    for k in range(COUNT):
        (root / "img" / f"{k}.png").write_bytes(picture(k))
    rows = [f'img/{k}.png,"{caption(k)}"' for k in range(COUNT)]
    (root / "pairs.csv").write_text("\n".join(["image,text", *rows]))
    return f"csv:{root / 'pairs.csv'}"


def parquet(root):
    images = [{"bytes": picture(k), "path": None} for k in range(COUNT)]
    texts = [caption(k) for k in range(COUNT)]
    pq.write_table(pa.table({"image": images, "text": texts}), root / "pairs.parquet")
    return f"parquet:{root / 'pairs.parquet'}"


def tar(root):
    with tarfile.open(root / "00000.tar", "w") as file:
        for k in range(COUNT):
            tar_files.add(file, f"{k:06}.png", picture(k))
            tar_files.add(file, f"{k:06}.txt", caption(k).encode())
    return f"webdataset:{root / '00000.tar'}"


def coco(root):
    for k in range(COUNT):
        (root / f"{k}.png").write_bytes(picture(k))
    content = {
        "images": [{"id": k, "file_name": f"{k}.png"} for k in range(COUNT)],
        "annotations": [{"image_id": k, "caption": caption(k)} for k in range(COUNT)],
    }
    (root / "captions.json").write_text(json.dumps(content))
    return f"coco:{root / 'captions.json'}@{root}"


class Walls(tfds.core.GeneratorBasedBuilder):
    """The pictures as TFDS stores them."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # else TFDS looks for a file of checksums beside this test

    def _info(self):
        features = {"image": tfds.features.Image(), "caption": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, download):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for k in range(COUNT):
            yield k, {"image": io.BytesIO(picture(k)), "caption": caption(k)}


def tensorflow_dataset(root):
    Walls(data_dir=root, file_format="array_record").download_and_prepare()
    return f"tfds:{root / 'walls' / '1.0.0'}:train"


# Kind -> what writes it and gives its source string, and the argument of the config.
KINDS = {
    "folder": (folder, "smoke"),
    "jsonl with boxes": (boxes, "smoke,regions"),
    "array_record": (converted, "smoke"),
    "tfds": (tensorflow_dataset, "smoke"),
    "csv": (table, "smoke"),
    "parquet": (parquet, "smoke"),
    "webdataset": (tar, "smoke"),
    "coco": (coco, "smoke"),
}


@pytest.mark.nightly  # each trains for a minute
@pytest.mark.parametrize("kind", KINDS)
def test_one_string_is_all_that_own_files_need(kind, tmp_path, caplog, monkeypatch):
    write, argument = KINDS[kind]
    (tmp_path / "data").mkdir()
    source = write(tmp_path / "data")
    one = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])  # compiles sooner
    monkeypatch.setattr(sharding, "make_mesh", one)
    monkeypatch.setattr(main, "_start_logging", lambda: None)  # it would keep the log from caplog
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        run = ["main", f"--config=own_data:{argument}", f"--workdir={tmp_path / 'run'}"]
        code = main.main([*run, f"--config.streams.pairs.source={source}"])
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    assert code == 0, caplog.text
    streams = {"pairs", "text"} | ({"regions"} if "regions" in argument else set())
    # The config allows any loss, for what it makes up; of these files nothing may be lost.
    whole = re.compile(r"records of (\w+): [1-9]\d* used, 0 skipped")
    assert {found[1] for found in map(whole.fullmatch, caplog.messages) if found} == streams
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    measured = {key for line in lines for key in json.loads(line)}
    wanted = {"retrieval/", "itm/", "mlm/"} | ({"grounding/"} if "regions" in argument else set())
    assert all(any(key.startswith(name) for key in measured) for name in wanted), measured
