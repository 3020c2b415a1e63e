"""What pandas, `datasets` and `webdataset` themselves write, read back by our sources.

They are not in the lock: requirements/foreign.txt.
"""

import json

import numpy as np
import pytest
from PIL import Image

from tests.data import tar_files
from unified_fm.data import images, source

pytestmark = pytest.mark.slow
WHY = "pip install -r requirements/foreign.txt"
TEXTS = ['a "big" dog, asleep', "two\nlines", "naïve\tcafé", '5" disk', "'x', \\n"]


def read(spec):
    opened = source.open_source(spec)
    return [opened[index] for index in range(len(opened))]


@pytest.fixture
def table():
    """Texts that need quotes, and numbers of which one is missing."""
    pandas = pytest.importorskip("pandas", reason=WHY)
    paths = [f"img/{k}.jpg" for k in range(5)]
    return pandas.DataFrame({"image": paths, "text": TEXTS, "label": [0, 1, None, 3, 4]})


@pytest.mark.parametrize("options", [{}, {"quoting": 1}, {"encoding": "utf-8-sig"}])
@pytest.mark.parametrize(("form", "sep"), [("csv", ","), ("tsv", "\t")])
def test_tables_of_pandas(table, tmp_path, form, sep, options):
    table.to_csv(tmp_path / f"a.{form}", sep=sep, index=False, **options)
    found = read(f"{form}:{tmp_path}/a.{form}")
    assert [each["text"] for each in found] == TEXTS
    assert [each.get("label") for each in found] == [0, 1, None, 3, 4]
    assert found[3]["image"] == f"{tmp_path}/img/3.jpg"


def test_parquet_of_pandas(table, tmp_path):
    table["kind"] = table["text"].astype("category")
    table.to_parquet(tmp_path / "a.parquet", row_group_size=2)
    found = read(f"parquet:{tmp_path}/a.parquet")
    assert [each["text"] for each in found] == TEXTS == [each["kind"] for each in found]
    assert [each.get("label") for each in found] == [0, 1, None, 3, 4]
    assert found[4]["image"] == f"{tmp_path}/img/4.jpg"


@pytest.fixture
def pets(tmp_path):
    """A set of `datasets` with pictures, classes, several captions, and boxes with classes."""
    datasets = pytest.importorskip("datasets", reason=WHY)
    names = datasets.ClassLabel(names=["cat", "dog"])
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "species": names,
            "caption": datasets.Sequence(datasets.Value("string")),
            "objects": datasets.Sequence(
                {"bbox": datasets.Sequence(datasets.Value("float32"), 4), "category": names}
            ),
        }
    )
    rows = [
        {
            "img": Image.new("RGB", (8, 6), (40 * k, 0, 0)),
            "species": k % 2,
            "caption": [f"pet {k}", f"animal {k}"],
            "objects": {"bbox": [[0, 1, 2, 3]] * k, "category": [1] * k},
        }
        for k in range(5)
    ]
    return datasets.Dataset.from_list(rows, features=features)


def check_pets(found, numbers):
    for example, k in zip(found, numbers, strict=True):
        image = images.decode(example.pop("image"))
        assert image.shape == (6, 8, 3)
        np.testing.assert_array_equal(image[0, 0], [40 * k, 0, 0])
        assert example.pop("id") in range(5)
        assert example == {
            "label": k % 2,
            "text": [f"pet {k}", f"animal {k}"],
            "regions": [{"box": [0, 1, 2, 3], "text": "dog"}] * k,
        }


def test_datasets_saved_on_disk(pets, tmp_path):
    pets.save_to_disk(tmp_path / "one", num_shards=2)
    opened = source.open_source(f"hf:{tmp_path}/one")
    assert opened.class_names == ["cat", "dog"]
    check_pets(read(f"hf:{tmp_path}/one"), range(5))


def test_a_dict_of_datasets_with_an_order_of_their_own(pets, tmp_path):
    datasets = pytest.importorskip("datasets", reason=WHY)
    both = {"train": pets.select([4, 0, 2]), "test": pets.filter(lambda row: row["species"] == 1)}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "pets")
    check_pets(read(f"hf:{tmp_path}/pets:train"), [4, 0, 2])
    check_pets(read(f"hf:{tmp_path}/pets:test"), [1, 3])


def test_parquet_of_datasets(pets, tmp_path):
    pets.to_parquet(tmp_path / "a.parquet")
    opened = source.open_source(f"parquet:{tmp_path}/a.parquet")
    assert opened.class_names == ["cat", "dog"]
    check_pets(read(f"parquet:{tmp_path}/a.parquet"), range(5))


def test_shards_of_webdataset(tmp_path):
    webdataset = pytest.importorskip("webdataset", reason=WHY)
    pattern = str(tmp_path / "%05d.tar")
    with webdataset.ShardWriter(pattern, maxcount=4, verbose=0) as writer:
        for k in range(10):
            said = {"caption": f"caption {k}", "width": 30, "height": 20}
            writer.write(
                {"__key__": f"{k:09d}", "jpg": tar_files.jpeg(k), "txt": f"caption {k}"}
                | {"json": said, "cls": k}
            )
    found = read(f"webdataset:{tmp_path}/{{00000..00002}}.tar")
    assert [each["text"] for each in found] == [f"caption {k}" for k in range(10)]
    assert [each["label"] for each in found] == list(range(10))
    assert [each["image"] for each in found] == [tar_files.jpeg(k) for k in range(10)]
    theirs = webdataset.WebDataset(str(tmp_path / "{00000..00002}.tar"), shardshuffle=False)
    for ours, sample in zip(found, theirs, strict=True):
        assert ours["image"] == sample["jpg"]
        assert ours["width"] == json.loads(sample["json"])["width"]
