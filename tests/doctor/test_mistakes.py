"""Files with one mistake, as users bring them, and what the check says of each."""

import json

import pytest

from tests.doctor.bad_records import encoded, picture
from unified_fm import cli
from unified_fm.doctor import choosing

PICTURES = 4


@pytest.fixture
def checked(tmp_path, capsys, monkeypatch):
    """Runs the check on a file of that content; gives the exit status and what it has said."""
    monkeypatch.chdir(tmp_path)
    for number in range(PICTURES):
        (tmp_path / f"{number}.png").write_bytes(encoded(picture(number), "PNG"))

    def run(name, content, *options):
        raw = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(raw)
        source = f"{name.rpartition('.')[2]}:{name}"
        status = cli.main(["data", "check", source, "--jobs=0", "--quiet", *options])
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def lines(**fields):
    """A JSONL of four records; `%d` in a value is the record's number."""
    rows = [{name: value % k for name, value in fields.items()} for k in range(PICTURES)]
    return "\n".join(map(json.dumps, rows))


def table(header, row):
    return "\n".join([header, *(row % (k, k) for k in range(PICTURES))])


def test_why_no_record_can_be_used_is_said(checked):
    status, said = checked("a.jsonl", lines(image="https://example.org/%d.jpg", text="text %d"))
    assert status == 2
    assert "refused: of the first 4 records of jsonl:a.jsonl none can be used\n" in said
    assert "  4 image is a URL; the first: record 0 of jsonl:a.jsonl (a.jsonl, line 1): " in said
    assert "https://example.org/0.jpg; nothing is downloaded" in said


def test_other_fields_and_reasons_are_said_together(tmp_path):
    rows = [{"title": "a"}, {"image": "/elsewhere/1.jpg"}, {"title": "", "words": "b"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(
        ValueError, match=r"the first 3 records have neither .* found: id, title"
    ) as caught:
        choosing.job_of(f"jsonl:{tmp_path}/a.jsonl", {})
    assert "  1 image path outside the data folder; the first: record 1 of" in str(caught.value)


@pytest.mark.parametrize("indent", [None, 1])
def test_one_array_in_place_of_lines(checked, indent):
    rows = [{"text": f"text {k}"} for k in range(30)]
    status, said = checked("a.jsonl", json.dumps(rows, indent=indent))
    assert status == 2 and "invalid JSON; the first: record 0 of jsonl:a.jsonl" in said
    assert "is the file one array? Write one JSON object a line" in said


@pytest.mark.parametrize(
    ("name", "content", "field"),
    [
        ("a.jsonl", lines(file_name="%d.png", text="text %d"), "file_name"),
        ("a.csv", table("filename,caption", "%d.PNG,text %d"), "filename"),
        ("a.jsonl", lines(url="https://example.org/%d.webp?w=9", text="text %d"), "url"),
    ],
)
def test_pictures_under_a_name_that_is_not_read_mar_a_run(checked, name, content, field):
    status, said = checked(name, content)
    assert status == 1
    assert "mar: 4 of 4 records have no picture, and what looks like one under a name" in said
    assert f" that is not read: {field}; call it" in said
    assert f"call it `image`; in a table ?image={field} does it" in said


def test_a_stream_that_was_asked_for_may_leave_pictures_alone(checked):
    smoke = ("--config=xfm_base:smoke", "--limit=2")
    rows = "\n".join([lines(picture="%d.png", text="text %d")] * 4)
    _, said = checked("a.jsonl", rows, *smoke, "--stream=text", "--out=text")
    assert "note: 2 of 2 records have no picture" in said and "mar: 2 of 2" not in said
    guessed, said = checked("a.jsonl", rows, *smoke, "--out=guessed")
    assert "mar: 2 of 2 records have no picture" in said
    wrong, said = checked("a.jsonl", rows, *smoke, "--stream=pairs", "--out=pairs")
    assert "2  no image; the first: a.jsonl, line 1 (the record has id, picture, text)" in said
    assert "mar: 2 of 2 records have no picture" in said and guessed == wrong == 1


def test_text_that_is_no_utf_8_mars_a_run(checked):
    content = table("image,text", "%d.png,un café à l'été %d").encode("latin-1")
    status, said = checked("a.csv", content)
    assert status == 1
    assert "mar: 100 % of the texts have letters that are lost: bytes that are no UTF-8" in said
    assert "Save it as UTF-8" in said
    status, said = checked("b.csv", content.decode("latin-1"), "--out=utf8")
    assert status == 0 and "letters that are lost" not in said


def test_named_classes_of_a_table_without_their_list(checked):
    status, said = checked("a.csv", table("image,label", "%d.png,dog%d"))
    assert status == 1
    assert "4  no usable label; the first: a.csv, line 2, image " in said
    assert "('dog0'; names of a table's classes are numbered by ?classes=FILE)" in said
