import dataclasses

import pytest

from unified_fm import plugins

LOSS = """
import dataclasses

@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    weight: float = 1.0
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_project_for_plugins").mkdir()
    (tmp_path / "my_project_for_plugins" / "loss.py").write_text(LOSS)
    (tmp_path / "my_project_for_plugins" / "empty.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_dotted_name_is_the_users_own_module(folder):
    objective = plugins.build("objectives", "my_project_for_plugins.loss", weight=2.0)
    assert objective.weight == 2.0
    assert dataclasses.is_dataclass(objective)


def test_unknown_keyword_names_the_nearest(folder):
    with pytest.raises(TypeError, match="no option 'wieght'; did you mean 'weight'"):
        plugins.build("objectives", "my_project_for_plugins.loss", wieght=2.0)


def test_a_module_without_the_class(folder):
    with pytest.raises(ValueError, match="must define it"):
        plugins.load("objectives", "my_project_for_plugins.empty")


def test_missing_module_of_the_user():
    with pytest.raises(ValueError, match=r"no module 'my_projekt.loss'"):
        plugins.load("objectives", "my_projekt.loss")


def test_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match=r"unknown name 'summ'.*did you mean 'sum'") as error:
        plugins.load("optim.merge", "summ")
    assert "Possible: " in str(error.value)


def test_unknown_kind():
    with pytest.raises(ValueError, match="did you mean 'objectives'"):
        plugins.load("objective", "itm")


@pytest.mark.parametrize("kind", sorted(plugins._PUBLIC))
def test_every_choice_is_a_plugin(kind):
    names = plugins.choices(kind)
    assert names
    assert all(callable(plugins.load(kind, name)) for name in names)
    assert "base" not in names
