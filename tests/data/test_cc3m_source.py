"""CC3M and CC12M as they come, with pictures where img2dataset puts them."""

import pytest

from tests.tasks import official_files as official
from unified_fm.data.skips import Skip
from unified_fm.data.source import open_source

ROWS = [
    "a dog , running\thttp://x.org/a.jpg",
    "a cat\thttps://x.org/b.jpg?w=3",
    "three\tcells\thttp://x.org",
]


@pytest.fixture
def pictures(tmp_path):
    for name in ("00000/000000000.jpg", "00000/000000001.jpg", "mine/1.jpg"):
        official.write_image(tmp_path / "img" / name)
    return tmp_path / "img"


def test_rows_find_the_pictures_of_img2dataset(tmp_path, pictures):
    read = open_source(f"cc3m:{official.write_rows(tmp_path / 'a.tsv', ROWS)}@{pictures}")
    assert len(read) == 3
    assert read[1] == {"id": 1, "image": f"{pictures}/00000/000000001.jpg", "text": "a cat"}
    assert read.place(1) == f"{tmp_path}/a.tsv, line 2"
    with pytest.raises(Skip, match="3 cells"):
        read[2]


def test_cc12m_is_the_other_way_round_and_a_line_of_names_is_none(tmp_path, pictures):
    turned = ["\t".join(reversed(row.split("\t"))) for row in ROWS[:2]]
    (tmp_path / "a.tsv").write_text("url\tcaption\n" + "\n".join(turned))  # no end of line
    read = open_source(f"cc3m:{tmp_path / 'a.tsv'}@{pictures}")
    assert [read[k]["text"] for k in range(len(read))] == ["a dog , running", "a cat"]
    assert read[0]["image"] == f"{pictures}/00000/000000000.jpg"
    assert read.place(0) == f"{tmp_path}/a.tsv, line 2"


def test_a_path_is_one_and_a_dead_address_is_counted(tmp_path, pictures):
    rows = [
        "mine\tmine/1.jpg",
        "gone\thttp://x.org/c.jpg",
        *["x\thttp://x.org"] * 9998,
        "far\tftp://x",
    ]
    read = open_source(f"cc3m:{official.write_rows(tmp_path / 'a.tsv', rows)}@{pictures}")
    assert read[0]["image"] == f"{pictures}/mine/1.jpg"
    for row, name in ((9_999, "00000/000009999.jpg"), (10_000, "00001/000010000.jpg")):
        with pytest.raises(Skip, match=f"image is not there: tried {pictures}/{name}"):
            read[row]
