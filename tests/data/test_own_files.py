"""The same pairs and boxes, in each format that users have them in, as the loader gives them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data import tar_files, test_arrow_sources
from unified_fm.data.streams import Streams, stream

TEXTS = ["a red cup", 'a "big" dog', "two birds", "one boat, far away", "rain", "a street"]
BOX = {"box": [2, 3, 10, 9], "text": "a thing"}
SMALL = {"size": 16, "patch_size": 8, "num_masked": 1, "max_len": 32}


@pytest.fixture
def own(tmp_path):
    """{form: source string}."""
    (tmp_path / "img").mkdir()
    names = [f"img/{k}.jpg" for k in range(6)]
    for k, name in enumerate(names):
        (tmp_path / name).write_bytes(tar_files.jpeg(40 * k))
        (tmp_path / name).with_suffix(".txt").write_text(TEXTS[k])
    rows = [{"image": n, "text": t, "regions": [BOX]} for n, t in zip(names, TEXTS, strict=True)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    cells = [[row["image"], row["text"], json.dumps(row["regions"])] for row in rows]
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in line) for line in cells]
    (tmp_path / "a.csv").write_text("\n".join(["image,text,regions", *quoted]))
    (tmp_path / "a.tsv").write_text(
        "\n".join("\t".join(line[:2]) for line in [["image", "text"], *cells])
    )
    table = pa.table({name: [row[name] for row in rows] for name in rows[0]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    pictures = [{"bytes": tar_files.jpeg(40 * k), "path": None} for k in range(6)]
    test_arrow_sources.save(tmp_path / "hf", table.set_column(0, "image", pa.array(pictures)))
    with tar_files.tarfile.open(tmp_path / "a.tar", "w") as tar:
        for k, text in enumerate(TEXTS):
            tar_files.add(tar, f"{k}.jpg", tar_files.jpeg(40 * k))
            tar_files.add(tar, f"{k}.txt", text.encode())
            tar_files.add(tar, f"{k}.json", json.dumps({"regions": [BOX]}).encode())
    images = [{"id": k, "file_name": name} for k, name in enumerate(names)]
    captions = [{"image_id": k, "caption": text} for k, text in enumerate(TEXTS)]
    boxes = [{"image_id": k, "category_id": 1, "bbox": BOX["box"]} for k in range(6)]
    for name, said in (("captions", captions), ("boxes", boxes)):
        content = {
            "images": images,
            "annotations": said,
            "categories": [{"id": 1, "name": "a thing"}],
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    forms = {"jsonl": "a.jsonl", "csv": "a.csv", "tsv": "a.tsv?quotes=none", "parquet": "a.parquet"}
    forms |= {
        "hf": "hf",
        "webdataset": "a.tar",
        "folder": "img",
        "coco": "captions.json:boxes.json",
    }
    return {form: f"{form}:{tmp_path}/{rest}" for form, rest in forms.items()}


def first_batches(config):
    streams = Streams({"a": config}, seed=3, tokenizer="bytes")
    found = [next(streams)["a"] for _ in range(4)]  # more than an epoch
    streams.close()
    return found


@pytest.mark.parametrize("pipeline", ["image_text", "regions"])
def test_every_format_gives_the_same_batches_in_any_number_of_threads(own, pipeline):
    options = {"images": 2} if pipeline == "regions" else {}
    options |= {k: v for k, v in SMALL.items() if pipeline != "regions" or k != "num_masked"}
    rows, wanted = (4 if options.get("images") else 2), None
    for form, source in own.items():
        if pipeline == "regions" and form in ("tsv", "folder"):
            continue  # they have no boxes
        threads = 1 if form == "jsonl" else 8
        found = first_batches(stream(pipeline, source, rows, threads=threads, **options))
        wanted = wanted or found
        for one, other in zip(wanted, found, strict=True):
            assert one.keys() == other.keys()
            for name in one.keys() - {"example_id"}:
                np.testing.assert_array_equal(one[name], other[name], f"{form}: {name}")
