"""csv:, tsv: and text:, line by line."""

import base64
import json
import pickle

import pytest

from unified_fm.data import source
from unified_fm.data.official import WrongFile
from unified_fm.data.shards import ChangedShard
from unified_fm.data.skips import Skip
from unified_fm.data.sources import _cells, _delimited


def read(spec):
    """All examples; in place of one that is skipped its reason."""
    opened = source.open_source(spec)
    found = []
    for index in range(len(opened)):
        try:
            found.append(opened[index])
        except Skip as skip:
            found.append(skip.reason)
    return found


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_table_of_pairs(tmp_path):
    file = write(
        tmp_path / "a.csv",
        "\ufeffimage,text,label,year\r\n"
        'img/1.jpg,"a ""big"" dog, asleep",3.0,1999\r\n'
        "\r\n"
        'img/2.jpg,"two\nlines",,\r\n'
        "img/3.jpg,last,0.5,x",
    )
    assert read(f"csv:{file}") == [
        {
            "id": 0,
            "image": str(tmp_path / "img/1.jpg"),
            "text": 'a "big" dog, asleep',
            "label": 3,
            "year": "1999",
        },
        {"id": 1, "image": str(tmp_path / "img/2.jpg"), "text": "two\nlines"},
        {"id": 2, "image": str(tmp_path / "img/3.jpg"), "text": "last", "label": 0.5, "year": "x"},
    ]
    opened = source.open_source(f"csv:{file}")
    assert [opened.place(k) for k in range(3)] == [f"{file}, line {n}" for n in (2, 4, 6)]


def test_a_column_without_a_name_is_left_out(tmp_path):
    """pandas writes its row numbers so."""
    file = write(tmp_path / "a.csv", ",text\n0,a\n1,b\n")
    assert read(f"csv:{file}") == [{"id": 0, "text": "a"}, {"id": 1, "text": "b"}]


def test_a_cell_may_hold_an_image(tmp_path):
    cell = base64.b64encode(bytes(300_000)).decode()
    file = write(tmp_path / "a.csv", f"image,text\n{cell},a\n")
    assert read(f"csv:{file}")[0]["image"] == bytes(300_000)


def test_columns_of_other_names_and_images_elsewhere(tmp_path):
    (tmp_path / "pictures").mkdir()
    file = write(tmp_path / "a.tsv", "filepath\ttitle\timage_id\n1.jpg\ta dog\t007\n2.jpg\tb\t8\n")
    first, second = read(f"tsv:{file}?text=title@{tmp_path}/pictures")
    assert first == {"id": "007", "image": str(tmp_path / "pictures/1.jpg"), "text": "a dog"}
    assert second["id"] == 8
    with pytest.raises(ValueError, match="the column text is 'tilte'; did you mean 'title'"):
        read(f"tsv:{file}?text=tilte")
    with pytest.raises(ValueError, match="the option is 'txt'; did you mean 'text'"):
        read(f"tsv:{file}?txt=title")


def test_lists_in_cells(tmp_path):
    regions = json.dumps([{"bb": [1, 2, 3, 4], "caption": "a cup"}]).replace('"', '""')
    file = write(tmp_path / "a.csv", f'image,elems,objects\n1.jpg,"{regions}",[]\n2.jpg,[1,2\n')
    first, second = read(f"csv:{file}")
    assert first["regions"] == [{"box": [1, 2, 3, 4], "text": "a cup", "attributes": None}]
    assert first["objects"] == []
    assert second == "invalid JSON"


def test_named_classes_are_numbered_by_a_list_of_them(tmp_path):
    classes = write(tmp_path / "names.txt", "cat\ndog\n")
    file = write(tmp_path / "a.csv", "image,label\n1.jpg,dog\n2.jpg,cow\n3.jpg,nan\n")
    opened = source.open_source(f"csv:{file}?classes={classes}")
    assert opened.class_names == ["cat", "dog"]
    assert opened[0]["label"] == 1
    assert read(f"csv:{file}?classes={classes}")[1:] == ["label of no class"] * 2
    assert [each["label"] for each in read(f"csv:{file}")] == ["dog", "cow", "nan"]


def test_rows_that_do_not_fit(tmp_path):
    rows = ["image,text", "1.jpg,a", "2.jpg", "3.jpg,b,c", "/etc/passwd.jpg,d"]
    rows += ["https://example.org/4.jpg,e", "5.jpg,f"]
    found = read(f"csv:{write(tmp_path / 'a.csv', chr(10).join(rows))}")
    assert [each if isinstance(each, str) else each["text"] for each in found] == [
        "a",
        "wrong number of columns",
        "wrong number of columns",
        "image path outside the data folder",
        "image is a URL",
        "f",
    ]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('id,text\n1,5" disk\n2,"x\ny"\n3,a "b" c', ['5" disk', "x\ny", 'a "b" c']),
        ('id,text\n1,"a"\n2,5" and 6"\n3,c', ["a", '5" and 6"', "c"]),
        ('"id","text"\n"1","a"\n"2",""""\n', ["a", '"']),
        ('\ufeff"id","text"\n"1","a"\n', ["a"]),
    ],
)
@pytest.mark.parametrize("block", [3, 7, 1 << 20])
def test_quotes_within_cells_and_around_them(tmp_path, monkeypatch, block, text, rows):
    monkeypatch.setattr("unified_fm.data.sources._lines._BLOCK", block)
    found = read(f"csv:{write(tmp_path / 'a.csv', text)}")
    assert [each["text"] for each in found] == rows


def test_both_ways_to_find_rows_agree(tmp_path):
    text = 'image,text\n1,"a, ""b""\n\nc"\n2,d\n"3","e"\n'
    file = write(tmp_path / "a.csv", text)
    quick = source.open_source(f"csv:{file}")
    ends = _delimited._walk(str(file), _cells.Form(","), "")
    assert ends.tolist() == [end for end in quick._tables[0].spans[:, 1].tolist()]


def test_a_quote_that_nothing_closes(tmp_path):
    file = write(tmp_path / "a.tsv", 'image\ttext\n1.jpg\t"Hello\n2.jpg\tx\n')
    with pytest.raises(WrongFile, match=r"a\.tsv, line 2: a quote opens .* tsv:.*quotes=none"):
        read(f"tsv:{file}")
    assert [each["text"] for each in read(f"tsv:{file}?quotes=none")] == ['"Hello', "x"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a;b\n1;2\n", r"has one column, 'a;b', where cells end at ','; .*\?delimiter=;"),
        ("image\ttext\n", r"if they end at '\\t': tsv:"),
        ("a,b\n1,2\n", r"columns 'a', 'b'; none is known .*Say which is which"),
        ("image|text\n1|2\n", r"has one column, 'image\|text', .*\?delimiter=\|"),
        ("image;text, more\n1;2\n", r"has 2 columns, 'image;text', .*\?delimiter=;"),
        ("text,text\n", "two columns are called 'text'"),
        ("", "a.csv is empty"),
        ("a,b\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("a,b\n".encode("utf-16-le"), "is UTF-16; save it as UTF-8"),
        ("a,b\n".encode("utf-16-be"), "is UTF-16; save it as UTF-8"),
        (b"\x1f\x8b\x08\0\0\0", r"is compressed \(gzip\).*gunzip"),
    ],
)
def test_other_files_are_refused_in_words(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read(f"csv:{write(tmp_path / 'a.csv', content)}")


def test_files_by_pattern_and_their_columns(tmp_path):
    for number in (1, 2, 4):
        write(tmp_path / f"part{number}.csv", f"text\n{number}\n")
    assert [each["text"] for each in read(f"csv:{tmp_path}/part{{1,2}}.csv")] == ["1", "2"]
    assert len(read(f"csv:{tmp_path}")) == 3
    with pytest.raises(FileNotFoundError, match=r"1 of 4 files .*part3\.csv.*\?missing=allow"):
        read(f"csv:{tmp_path}/part{{1..4}}.csv")
    opened = source.open_source(f"csv:{tmp_path}/part{{1..4}}.csv?missing=allow")
    assert opened.problems == [("missing file", f"{tmp_path}/part3.csv")]
    write(tmp_path / "part4.csv", "text,label\n4,1\n")
    with pytest.raises(ValueError, match=r"part4\.csv has other columns .*without none, with lab"):
        read(f"csv:{tmp_path}")
    with pytest.raises(FileNotFoundError, match=r"no match; did you mean 'part4\.csv'"):
        read(f"csv:{tmp_path}/part9.csv")
    with pytest.raises(ValueError, match="no program is run and nothing is downloaded"):
        read("csv:pipe:cat x.csv")


DOCUMENTS = "\ufeff\n\none\ntwo\r\n\n \nthree\n\nfour"


@pytest.mark.parametrize(
    ("by", "texts", "lines"),
    [
        ("line", ["one", "two", "three", "four"], [3, 4, 7, 9]),
        ("paragraph", ["one\ntwo", "three", "four"], [3, 7, 9]),
    ],
)
def test_documents_of_a_file(tmp_path, by, texts, lines):
    file = write(tmp_path / "a.txt", DOCUMENTS)
    opened = source.open_source(f"text:{file}?by={by}")
    assert [opened[k] for k in range(len(opened))] == [
        {"id": k, "text": text} for k, text in enumerate(texts)
    ]
    assert [opened.place(k) for k in range(len(opened))] == [f"{file}, line {n}" for n in lines]


def test_documents_that_are_files(tmp_path):
    (tmp_path / "more").mkdir()
    write(tmp_path / "b.txt", b"caf\xe9\nend\n")
    write(tmp_path / "more" / "a.txt", "x")
    found = read(f"text:{tmp_path}?by=file")
    assert found == [{"id": "b.txt", "text": "caf\ufffd\nend"}, {"id": "more/a.txt", "text": "x"}]
    assert len(read(f"text:{tmp_path}")) == 3
    with pytest.raises(ValueError, match="text: by is 'lines'; did you mean 'line'"):
        read(f"text:{tmp_path}?by=lines")


def test_a_source_goes_to_another_process_without_open_files(tmp_path):
    """Pickled between processes of one run; never written to a file, never read from one."""
    write(tmp_path / "a.jsonl", '{"text": "x"}\n')
    write(tmp_path / "a.csv", "text\nx\n")
    write(tmp_path / "a.txt", "x\n")
    for spec in ("jsonl:a.jsonl", "csv:a.csv", "text:a.txt", "text:a.txt?by=file"):
        opened = source.open_source(spec.replace(":", f":{tmp_path}/"))
        assert opened[0]["text"] == "x"
        assert pickle.loads(pickle.dumps(opened))[0] == opened[0]


def test_a_file_that_changes_under_a_run_ends_it(tmp_path):
    file = write(tmp_path / "a.csv", "text\nx\n")
    opened = source.open_source(f"csv:{file}")
    write(file, "text\nlonger\n")
    with pytest.raises(ChangedShard, match=r"a\.csv was replaced: 7 bytes .* 12 now"):
        opened[0]
