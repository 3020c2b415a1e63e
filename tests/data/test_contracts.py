"""What a plugin of the user's must have, and how it is told."""

import dataclasses

import pytest

from unified_fm import plugins
from unified_fm.data import source
from unified_fm.data.pipelines import base as pipelines
from unified_fm.data.pipelines import text
from unified_fm.data.sources import base as sources


def write_plugin(tmp_path, monkeypatch, name, text):
    (tmp_path / "plug").mkdir(exist_ok=True)
    (tmp_path / "plug" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return f"plug.{name}"


def test_the_members_of_the_contracts():
    """A new one is a promise to every user's plugin: it needs a default."""
    assert plugins.members(sources.Source) == [
        *("problems", "lost", "class_names", "origin", "__len__", "__getitem__", "place")
    ]
    assert plugins.members(pipelines.Pipeline) == [
        *("packed", "files", "class_names", "__call__", "sample", "spec", "records_of", "collate")
    ]


def test_a_source_of_two_methods_is_enough(tmp_path, monkeypatch):
    name = write_plugin(
        tmp_path,
        monkeypatch,
        "letters",
        "from unified_fm.data.sources import base\n"
        "class Source(base.Source):\n"
        "    def __init__(self, argument): self.letters = argument\n"
        "    def __len__(self): return len(self.letters)\n"
        "    def __getitem__(self, index): return {'text': self.letters[index]}\n",
    )
    opened = source.open_source(f"{name}:abc")
    assert (opened.problems, opened.lost, opened.place(1)) == ((), 0, "")
    both = source.open_source(f"{name}:abc+{name}:de")
    assert both[4] == {"text": "e"}
    assert both.place(4) == "part 2, 1"


def test_a_source_that_lacks_something_is_refused_by_name(tmp_path, monkeypatch):
    name = write_plugin(
        tmp_path,
        monkeypatch,
        "bare",
        "class Source:\n"
        "    def __init__(self, argument): self.problems = []\n"
        "    def __len__(self): return 1\n"
        "    def __getitem__(self, index): return {}\n",
    )
    with pytest.raises(
        TypeError,
        match=r"source 'plug.bare' lacks lost, class_names, origin, place: derive it from"
        r" unified_fm\.data\.sources\.base\.Source",
    ):
        source.open_source(f"{name}:x")


def test_a_pipeline_that_lacks_something_is_refused_by_name(tmp_path, monkeypatch):
    bare = "class Pipeline:\n    def __call__(self, example, rng): return {}\n"
    name = write_plugin(tmp_path, monkeypatch, "loose", bare)
    with pytest.raises(TypeError, match=r"plug\.loose\.Pipeline is no dataclass"):
        pipelines.load(name)
    made = f"import dataclasses\n@dataclasses.dataclass\n{bare}"
    name = write_plugin(tmp_path, monkeypatch, "data", made)
    with pytest.raises(
        TypeError,
        match=r"plug\.data\.Pipeline lacks packed, files, class_names, sample, spec, records_of, ",
    ):
        pipelines.load(name)


def test_the_options_of_a_pipeline_are_its_fields():
    options = pipelines.options_of(text.Pipeline)
    assert options["max_len"].default == 128
    assert options["tokenizer"].default is dataclasses.MISSING
    assert "masker" not in options and "packed" not in options


def test_different_arrays_name_the_stream(tmp_path, monkeypatch):
    name = write_plugin(
        tmp_path,
        monkeypatch,
        "uneven",
        "import dataclasses\n"
        "from unified_fm.data.pipelines import base\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Pipeline(base.Pipeline):\n"
        "    def __call__(self, example, rng):\n"
        "        return {'a': 1} | ({'b': 1} if example['id'] else {})\n",
    )
    from unified_fm.data.streams import batches, stream

    with pytest.raises(ValueError, match=r"different arrays: \['a'\] and \['a', 'b'\]") as caught:
        list(batches(stream(name, "synthetic:text:4", 2), name="odd"))
    assert "in stream 'odd'" in caught.value.__notes__
