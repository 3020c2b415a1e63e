"""Where names and templates are from: the user's file, clip-benchmark's lists, the data."""

import json

import pytest

from unified_fm.probing import prompts
from unified_fm.tasks.probe_sets import SETS, ProbeSet

OWN = ProbeSet(name="own", train="folder:x")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """clip-benchmark's two lists, beside a module that must not be run."""
    folder = tmp_path / "clip_benchmark" / "datasets"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    names = {"pets": ["Abyssinian", "American Bulldog"], "gtsrb": ["stop", "give way"]}
    templates = {"pets": ["a photo of a {c}, a type of pet."], "gtsrb": ['a "{c}" sign', "{c}"]}
    (folder / "en_classnames.json").write_text(json.dumps(names))
    text = json.dumps(templates)
    (folder / "en_zeroshot_classification_templates.json").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)


def test_names_and_templates_of_the_package_are_read_and_not_imported(installed):
    found = prompts.of(SETS["pets"], ["american_bulldog", "Abyssinian"], {})
    assert found.names == ["American Bulldog", "Abyssinian"]  # by name, in the data's order
    assert found.templates == ["a photo of a {}, a type of pet."]
    assert found.notes == ["1 templates of clip-benchmark", "class names of clip-benchmark"]
    by_order = prompts.of(SETS["gtsrb"], ["00000", "00001"], {})
    assert by_order.names == ["stop", "give way"]
    assert "by their order: 00000 is 'stop', 00001 is 'give way'" in by_order.notes[1]
    others = prompts.of(SETS["gtsrb"], ["stop", "go", "turn"], {})
    assert others.names == ["stop", "go", "turn"]
    assert "clip-benchmark has 2, the data 3" in others.notes[1]


def test_without_the_package_the_data_s_own_names_go_into_a_plain_template():
    found = prompts.of(SETS["sun397"], ["/a/abbey", "/a/apartment_building/outdoor"], {})
    assert found.names == ["abbey", "apartment building outdoor"]
    assert found.templates == ["a photo of a {}"]
    assert "pip install --no-deps clip-benchmark==1.6.2" in found.notes[0]
    assert "give names with --prompts" in prompts.of(OWN, ["0", "1"], {}).notes[1]


def test_the_user_s_file_comes_first(tmp_path, installed):
    path = tmp_path / "prompts.json"
    given = {
        "pets": {"classes": ["cat", "dog"]},
        "own": {"templates": ["{} here"], "classes": {"b": "bee", "a": "ant"}},
    }
    path.write_text(json.dumps(given))
    read = prompts.read(path)
    assert prompts.of(SETS["pets"], ["x", "y"], read).names == ["cat", "dog"]
    own = prompts.of(OWN, ["a", "b"], read)
    assert (own.names, own.templates) == (["ant", "bee"], ["{} here"])
    with pytest.raises(ValueError, match="pets has 2 classes; the data have 3: x, y, z"):
        prompts.of(SETS["pets"], ["x", "y", "z"], read)
    with pytest.raises(ValueError, match="own has no name for 1:\n  c"):
        prompts.of(OWN, ["a", "c"], read)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "is no object"),
        ('{"pets": []}', "'pets' is no object"),
        ('{"pets": {"names": []}}', "a field of 'pets' is 'names'"),
        ('{"pets": {"templates": "a {}"}}', "templates of 'pets' are not texts"),
        ('{"pets": {"classes": []}}', "classes of 'pets' are not texts"),
    ],
)
def test_another_form_is_refused_with_the_right_one(tmp_path, text, message):
    path = tmp_path / "prompts.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        prompts.read(path)
