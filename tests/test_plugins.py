import dataclasses
import sys

import pytest

from unified_fm import plugins

LOSS = """
import dataclasses
from unified_fm.objectives import base

@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(base.Objective):
    weight: float = 1.0
    def __call__(self, net, views, batch): ...
"""
TASK = (
    LOSS
    + """
from unified_fm.data.pipelines import base as pipelines
from unified_fm.evaluators import base as evaluators

@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(pipelines.Pipeline):
    size: int = 384
    def __call__(self, example, rng): ...

@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(evaluators.Evaluator):
    task = "nlvr2"
    def run(self, apply, params): ...
"""
)
BARE = """
import dataclasses
import flax.linen as nn

@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    def __call__(self, net, views, batch): ...

class Model(nn.Module):
    width: int = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_project_for_plugins").mkdir()
    (tmp_path / "my_project_for_plugins" / "loss.py").write_text(LOSS)
    (tmp_path / "my_project_for_plugins" / "empty.py").write_text("")
    (tmp_path / "my_project_for_plugins" / "nlvr2.py").write_text(TASK)
    (tmp_path / "my_project_for_plugins" / "bare.py").write_text(BARE)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_dotted_name_is_the_users_own_module(folder):
    objective = plugins.build("objectives", "my_project_for_plugins.loss", weight=2.0)
    assert objective.weight == 2.0
    assert dataclasses.is_dataclass(objective)


def test_one_module_of_the_users_is_a_whole_task(folder):
    name = "my_project_for_plugins.nlvr2"
    assert plugins.build("objectives", name, weight=3.0).weight == 3.0
    assert plugins.build("data.pipelines", name).size == 384
    assert plugins.load("evaluators", name).task == "nlvr2"
    with pytest.raises(ValueError, match="has no 'Model': a plugin of models must define it"):
        plugins.load("models", name)


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A folder of tasks that the library would have."""
    from unified_fm import tasks as package

    (tmp_path / "nlvr2.py").write_text(TASK)
    (tmp_path / "mlm.py").write_text(TASK)  # named like an objective of the library
    (tmp_path / "_metrics.py").write_text("x = 1")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    plugins._names.cache_clear()
    yield
    plugins._names.cache_clear()
    for name in ("nlvr2", "mlm"):
        sys.modules.pop(f"unified_fm.tasks.{name}", None)


def test_a_task_is_found_by_its_name(tasks):
    found = [plugins.load(kind, "nlvr2") for kind in ("objectives", "data.pipelines", "evaluators")]
    assert {plugin.__module__ for plugin in found} == {"unified_fm.tasks.nlvr2"}
    assert {"nlvr2", "mlm"} <= set(plugins.names("evaluators"))
    assert "_metrics" not in plugins.names("evaluators")
    assert plugins.load("objectives", "mlm").__module__ == "unified_fm.objectives.mlm"
    with pytest.raises(ValueError, match=r"unknown name 'nlvr3' in obj.*did you mean 'nlvr2'"):
        plugins.load("objectives", "nlvr3")
    for kind in ("models", "optim.merge"):
        with pytest.raises(ValueError, match="unknown name 'nlvr2'"):
            plugins.load(kind, "nlvr2")


def test_a_file_may_name_a_task_of_the_library():
    plugins.refuse_unnamed("unified_fm.tasks.nlvr2", "config.json", [])


def test_a_class_that_does_not_say_what_it_must_is_refused(folder):
    with pytest.raises(
        TypeError,
        match=r"bare.Objective lacks reads, encodes, accumulates, refers, ema_reads, lessons, "
        r"same, predict: derive it from unified_fm.objectives.base.Objective",
    ):
        plugins.load("objectives", "my_project_for_plugins.bare")
    with pytest.raises(TypeError, match=r"lacks .*gives.*attach.*unified_fm.models.base.Model"):
        plugins.load("models", "my_project_for_plugins.bare")


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
    names = plugins.names(kind)
    assert names
    assert all(callable(plugins.load(kind, name)) for name in names)
    assert "base" not in names
