r"""Cells of csv: and tsv:: quotes that are escaped by \, and spaces before quotes."""

import csv
import random

import pytest

from tests.data.test_tables import read, write
from unified_fm.data import source
from unified_fm.data.official import WrongFile
from unified_fm.data.skips import Skip


def texts(spec):
    return [each if isinstance(each, str) else each["text"] for each in read(spec)]


# As Spark writes them (option `escape`, a backslash), and MySQL (ENCLOSED BY '"' ESCAPED BY '\').
SPARK = r'''id,text,more
1,"a \"quoted\" b",x
2,"ends with \"it\"",x
3,"\"all, of it\"",x
4,plain,x
5,"two
lines, \"one\"",x
6,"C:\\",x
7,"twice ""so""",x
'''
MEANT = ['a "quoted" b', 'ends with "it"', '"all, of it"', "plain", 'two\nlines, "one"', "C:\\"]


@pytest.mark.parametrize("block", [7, 1 << 20])
def test_an_escape_is_read_where_it_is_asked_for(tmp_path, monkeypatch, block):
    monkeypatch.setattr("unified_fm.data.sources._lines._BLOCK", block)
    file = write(tmp_path / "a.csv", SPARK)
    assert texts(f"csv:{file}?escape=\\") == [*MEANT, 'twice "so"']
    assert source.open_source(f"csv:{file}?escape=\\").place(5) == f"{file}, line 8"


def test_an_escape_without_quotes(tmp_path):
    """MySQL's own form: tabs and line breaks in a cell are escaped, too."""
    file = write(tmp_path / "a.tsv", 'id\ttext\n1\ta\\\tb\n2\tc\\\nd "\n3\te\n')
    assert texts(f"tsv:{file}?quotes=none&escape=\\") == ["a\tb", 'c\nd "', "e"]
    opened = source.open_source(f"tsv:{file}?quotes=none")
    with pytest.raises(Skip, match=r"3; the header has 2; if a \\ makes .*, say \?escape=\\$"):
        opened[0]


def test_an_escape_is_not_read_over(tmp_path):
    rows = ['1,"a \\"quoted\\" b"', "2,plain", '3,"b\\""', '4,"c"', "5,d"]
    file = write(tmp_path / "a.csv", "\n".join(["id,text", *rows]))
    # The quote that ends the third row opens no cell: all up to the next one is taken for its end.
    assert texts(f"csv:{file}") == ["damaged row", "plain", "damaged row", "d"]
    with pytest.raises(Skip, match=r'has \\" in a cell; if that stands for a quote, say \?escape='):
        source.open_source(f"csv:{file}")[0]
    write(file, "\n".join(["id,text", *rows[:3]]))
    with pytest.raises(WrongFile, match=r'line 4: .*If \\" stands for a quote: csv:.*\?escape=\\$'):
        read(f"csv:{file}")


@pytest.mark.parametrize("row", [r'"C:\dir\"', r"5\" disk", r'"he said \""so\"""'])
def test_a_backslash_of_a_well_formed_cell_stays(tmp_path, row):
    file = write(tmp_path / "a.csv", f"id,text,more\n1,{row},x\n2,last,x\n")
    first, last = texts(f"csv:{file}")
    assert first == row.strip('"').replace('""', '"') or first == r"he said \"so\""
    assert last == "last"


def test_files_with_escapes_that_are_none_are_refused_as_others(tmp_path):
    for content, said in ((b"", "is empty"), (b"\x1f\x8b\x08\0\0\0", "is compressed")):
        with pytest.raises(WrongFile, match=said):
            read(f"csv:{write(tmp_path / 'a.csv', content)}?escape=\\")


@pytest.mark.parametrize("escape", ["", "\\\\", '"', ",", "é"])
def test_an_escape_is_one_sign(tmp_path, escape):
    file = write(tmp_path / "a.csv", "text\na\n")
    with pytest.raises(ValueError, match=r"escape is .*; it is one ASCII character, neither the d"):
        read(f"csv:{file}?escape={escape}")


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ('1, "a, b"', "a, b"),
        ('1,  "a ""b"", c"', 'a "b", c'),
        ('"1", "a, b"', "a, b"),
        ("1, a b", " a b"),  # as it was: only before quotes do spaces go
        ('1, "so" he said', ' "so" he said'),  # a quote of speech
        ('1, "so', ' "so'),
        ('1,"he said, ""so"", twice"', 'he said, "so", twice'),
        ('1,"he said, ""so, """', 'he said, "so, "'),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_spaces_before_quotes_that_hold_a_cell_are_no_part_of_it(tmp_path, row, text, end):
    file = write(tmp_path / "a.csv", f'"id", "text"\n{row}{end}')
    assert texts(f"csv:{file}") == [text]


def test_a_cell_with_spaces_and_quotes_ends_in_its_line(tmp_path):
    file = write(tmp_path / "a.csv", 'id,text\n1, "so\n2,b\n3, c"\n4, "d, e"\n')
    assert texts(f"csv:{file}") == [' "so', "b", ' c"', "d, e"]
    spaces = write(tmp_path / "b.csv", 'id text\n1 "a b"\n')
    assert texts(f"csv:{spaces}?delimiter= ") == ["a b"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_well_formed_rows_are_read_as_by_the_module_csv(tmp_path, end):
    rng = random.Random(0)
    rows = [[str(k), "".join(rng.choices('ab ",\\\n', k=6)), "x"] for k in range(300)]
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        with open(tmp_path / "a.csv", "w", newline="") as file:
            writer = csv.writer(file, lineterminator=end, quoting=quoting)
            writer.writerows([["id", "text", "more"], *rows])
        assert texts(f"csv:{tmp_path}/a.csv") == [text for _, text, _ in rows]
