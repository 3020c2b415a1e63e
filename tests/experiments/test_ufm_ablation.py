"""The UFM ablation: arms are what they are called, and one command makes them."""

import json
import pathlib
import re

import numpy as np
import pytest

from experiments import bigram, grid, objects, seeds
from experiments.ufm_ablation import conclusions, report, run
from experiments.ufm_ablation.arms import CONFIG, arms
from unified_fm.config import chosen, weights

HERE = pathlib.Path(run.__file__).parent
WORK = grid.Grid(spec=CONFIG, arms=arms(), seeds=[0])


@pytest.fixture(scope="module")
def made():
    """The settings of every arm."""
    return {name: WORK.settings(changes) for name, changes in arms().items()}


def test_arms_differ_in_streams_and_teachers(made):
    assert list(made["vit_only"].streams) == list(made["vit_kd"].streams) == ["image"]
    assert list(made["bert_only"].streams) == list(made["bert_kd"].streams) == ["text"]
    assert {name: list(s.teachers) for name, s in made.items() if s.teachers} == {
        **{"vit_kd": ["vit"], "bert_kd": ["bert"]},
        **{arm: ["vit", "bert"] for arm in ("joint_kd", "joint_kd_igm", "joint_kd_anneal")},
    }
    own_adams = {"name": "per_task_adam", "shared": "encoder/.*"}
    assert made["joint_per_task_adam"].merge == own_adams
    for name, settings in made.items():
        short = WORK.settings(arms("short")[name])
        assert settings.total_steps == short.total_steps == (1 if name == "scratch" else 1500)
        taught = {t: s.total_steps for t, s in short.own_runs().items()}
        assert taught == dict.fromkeys(settings.teachers, 20)
        for stream, entry in settings.streams.items():
            each = [chosen.objective(*item)[1] for item in entry.objectives.items()]
            seen = any(stream in teacher.streams for teacher in settings.teachers.values())
            assert each == ([1.0, 1.0] if seen else [1.0])


def test_the_teachers_take_leave_in_one_arm(made):
    for name in ("joint_kd", "joint_kd_anneal"):
        found = weights.scheduled(made[name])
        told = [(each.stream, each.objective, each.weight.peak, each.weight.end) for each in found]
        both = [(stream, "distill", 1.0, 0.0) for stream in ("image", "text")]
        assert told == (both if name == "joint_kd_anneal" else [])


IMAGE, TEXT = [[9.0, 0.0], [0.0, 1.0]], [[-3.0, 2.0], [1.0, 0.0]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("joint", [[6, 2], [1, 1]]),
        # Text keeps the two entries of its largest gradients, images have the others.
        ("joint_igm", [[-3, 2], [0, 1]]),
        # Text keeps the two that images do not move.
        ("joint_igm_ratio", [[9, 2], [1, 1]]),
        ("joint_static", [[0.4 * 9 - 1.6 * 3, 3.2], [1.6, 0.4]]),
    ],
)
def test_the_update_of_an_arm_is_that_of_its_merge(name, expected, made):
    def tree(kernel):
        return {"encoder": {"layer_00": {"kernel": np.array(kernel, np.float32)}}}

    merge = chosen.merge(made[name], 20)
    state, grads = merge.init(tree(IMAGE)), {"image": tree(IMAGE), "text": tree(TEXT)}
    for step in range(20):  # past the masks' warm-up and ramp
        state = merge.refresh(state, step) if merge.refresh else state
        found, state = merge.update(grads, state, tree(IMAGE))
    np.testing.assert_allclose(found["encoder"]["layer_00"]["kernel"], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["joint_igm_random", "vit_half", "bert_half"])
def test_what_is_drawn_is_of_the_seed(name, made):
    assert [seeds.of_seed(made[name], s).merge["seed"] for s in (0, 5)] == [0, 5]


def test_each_arm_has_the_rate_that_was_chosen_for_its_kind():
    rates = {"vit": 0.006, "bert": 0.003, "joint": 0.0015}
    chosen_arms, others = arms(rates=rates, static=8), arms(static=8)
    assert chosen_arms.keys() == others.keys()
    for name, changes in chosen_arms.items():
        rate = rates.get(name.split("_")[0], 0.0)
        assert changes == {"optimizer.lr": rate} | others[name], name
    weights = chosen_arms["joint_static"]["merge"]["weights"]
    assert weights["text"] == 8 * weights["image"] and sum(weights.values()) == 2.0


def test_evaluators_of_an_arm_ask_what_it_has_learnt(made):
    asked = {name: set(settings.evaluate.evaluators) for name, settings in made.items()}
    images = {"drawings", "drawings_tempered", "objects", "digits"}
    words = {"words", "words_tempered", "topics"}
    assert asked["vit_half"] == images and asked["bert_half"] == words
    assert asked["joint"] == asked["scratch"] == images | words


def test_the_label_of_an_image_is_its_largest_drawing(monkeypatch):
    class Images(list):
        names = ("ant", "bell", "cup")

    regions = [{"box": [0, 0, 9, 9]}, {"box": [3, 3, 10, 9]}]
    made = Images([{"regions": regions, "objects": ["ant", "cup"], "id": 7}])
    opened = []
    monkeypatch.setattr(objects, "open_source", lambda spec: opened.append(spec) or made)
    source = objects.Source("train?size=28")
    assert opened == ["demo:objects/train?size=28"]
    assert (len(source), source[0]["label"], source[0]["id"]) == (1, 2, 7)


def test_A2_version_1_is_there_and_says_why_it_is_superseded():
    page = (HERE / "version_1" / "README.md").read_text(encoding="utf-8")
    for why in ("biased target", "one Adam state", '"The claim fails"', "is superseded"):
        assert why in page
    for link in re.findall(r"\]\((?!http)([^)]+)\)", page):
        assert (HERE / "version_1" / link).exists(), link
    numbers = json.loads((HERE / "version_1" / "results.json").read_text(encoding="utf-8"))
    assert len(numbers["arms"]) == 12 and numbers["seeds"] == 5
    for arm, entry in numbers["summary"].items():
        if "text_loss" in entry:
            assert f"| {arm} |" in page and f"{entry['text_loss']['mean']:.4f}" in page


def test_the_runs_take_size_rates_and_weights_from_the_gate():
    gate = {"width": 24, "layers": 3, "steps": 4500, "static_ratio": 8}
    gate["rates"] = {"vit": 0.006, "bert": 0.003, "joint": 0.0015}
    work = run._grid(run._parser().parse_args(["--change=seed=7"]), gate)
    made = {name: work.settings(work.arms[name]) for name in ("vit_half", "joint_static")}
    assert {name: settings.optimizer.lr for name, settings in made.items()} == {
        **{"vit_half": 0.006, "joint_static": 0.0015},
    }
    settings = made["joint_static"]
    assert settings.total_steps == 4500 and settings.seed == 7
    encoder = {"layers": 3, "width": 24, "heads": 2, "mlp_width": 96}
    assert dict(settings.model["encoder"]) == encoder
    assert settings.merge["weights"]["text"] == 8 * settings.merge["weights"]["image"]
    assert list(work.seeds) == list(range(8))
    assert len(run._grid(run._parser().parse_args(["--extend"]), gate).seeds) == 16


def test_the_command_on_the_page_has_no_folder_of_this_machine():
    given = ["--workdir", "/somewhere/here", "--extend", "--workdir=/there", "--group=4"]
    assert run._command(given).endswith("--workdir=runs/ufm_ablation --extend --group=4")


def test_a_command_that_cannot_work_is_refused(tmp_path, capsys):
    command = [f"--workdir={tmp_path}", "--change=model.encoder.widht=24"]
    assert run.main(command) == 1
    assert "widht" in capsys.readouterr().err
    assert run.main(["--budget=short", "--publish"]) == 1
    assert "nothing to publish" in capsys.readouterr().err


@pytest.mark.nightly
def test_an_arm_with_teachers_from_the_data_to_the_report(tmp_path):
    arms_of = ["--arms", "joint_kd_igm", "--seeds", "0"]
    assert run.main(["--budget=short", f"--workdir={tmp_path}", *arms_of]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    scores = found["arms"]["joint_kd_igm"]["seeds"]["0"]["scores"]
    asked = {*conclusions.LOSSES.values(), *report.TEMPERED.values(), *conclusions.PROBES}
    assert asked <= scores.keys()
    assert 4 < found["floors"][bigram.KEY] < found["floors"]["words/cross_entropy"]
    assert set(found["teachers"]) == {"vit 1000", "bert 1000"}
    assert f"{scores['words/cross_entropy']:.4f}" in (tmp_path / "report.md").read_text()
    assert "joint_kd_igm" in (tmp_path / "curves.svg").read_text()
    assert str(pathlib.Path.cwd()) not in (tmp_path / "results.json").read_text()
