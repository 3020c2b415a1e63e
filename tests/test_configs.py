"""Every config of the repository, two steps, at :smoke size."""

import functools
import pathlib
import re
from collections.abc import Mapping

import jax
import pytest

from unified_fm import main, setup, sharding
from unified_fm.commands import show
from unified_fm.config import file
from unified_fm.config.changes import data_changes

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_sound_as_it_stands(path):
    begun = ["--config.init=scratch"] if path.parent.name == "finetune" else []
    main.parse(["main", f"--config={path}", "--workdir=w", *begun])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_an_unknown_argument_is_refused_with_the_nearest(path):
    wanted = "unknown argument 'smok' after ':'; did you mean 'smoke'? Possible: "
    with pytest.raises(main.Refused, match=re.escape(wanted)):
        main.parse(["main", f"--config={path}:smok", "--workdir=w"])


def test_the_published_options_are_one_argument():
    path = ROOT / "configs" / "xfm_base.py"
    _, ours = main.parse(["main", f"--config={path}", "--workdir=w"])
    _, official = main.parse(["main", f"--config={path}:official", "--workdir=w"])
    assert ours.total_steps == 166_500  # 100 epochs at 32 devices, X-FM 3.2
    changed = {line.split(":")[0] for line in data_changes(ours.plain(), official.plain())}
    assert changed == {
        "streams.text.mask_units",
        "streams.text.special_tokens",
        "streams.pairs.mask_units",
        "streams.pairs.special_tokens",
        "streams.pairs.objectives.itc",
        "streams.pairs.objectives.itc.gradient_scale",
        "streams.regions.mask_units",
        "streams.regions.special_tokens",
        "streams.regions.objectives.itc",
        "streams.regions.objectives.itc.gradient_scale",
        "streams.regions.objectives.bbox",
        "streams.regions.objectives.bbox.degenerate",
    }
    assert (ours.rules.lr_scale, official.rules.lr_scale) == ("correct", "official")


@pytest.mark.parametrize("argument", ["", ":official"])
@pytest.mark.slow
def test_the_base_model_has_the_published_number_of_parameters(argument):
    table = show.params_text(file.load(f"{ROOT}/configs/xfm_base.py{argument}"))
    assert table.endswith("365,898,873")
    assert "temperature" in table
    word = next(line for line in table.splitlines() if line.startswith("fusion_mlm_head/embedding"))
    assert word.split() == [
        "fusion_mlm_head/embedding",
        "50265",
        "768",
        "38,603,520",
        "1" if argument else "2",
        "1",
        "-",
        "fsdp",
    ]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_A10_parameters_are_listed_without_any_file_of_a_teacher(path):
    _, settings = main.parse(["main", f"--config={path}:smoke", "--workdir=w"])
    entries = {
        name: entry.replace(path="not/there", config=None, init=None, cache=None)
        for name, entry in settings.teachers.items()
    }
    text = show.params_text(settings.replace(teachers=entries))
    assert "total" in text.splitlines()[-1]
    if entries:
        assert {"encoder", "mlm_head", "image_head"} <= {
            line.split("/")[0] for line in text.split()
        }


# What experiments compare, by the word after the colon: {stream: its objectives}, its teachers, and
# the parts of the model that are made.
XFM = {"text": "mlm", "image": "mim", "pairs": "itc itm imlm mim", "regions": "itc itm imlm bbox"}
UFM = {"image": "classify", "text": "mlm"}
KD = {"image": "classify distill", "text": "mlm distill"}
ARMS = {
    "xfm_base:no_stop": (XFM, ""),
    "xfm_base:no_mim": ({"text": "mlm", "pairs": "itc itm imlm", "regions": XFM["regions"]}, ""),
    "xfm_base:mim_frozen": (XFM, "images"),
    "xfm_base:text_only": ({"text": "mlm"}, ""),
    "xfm_base:image_only": ({"image": "pixels"}, ""),
    "xfm_base:quarter": (XFM, ""),
    "ufm_base:joint": (UFM, ""),
    "ufm_base:kd": (KD, "vit bert"),
    "ufm_base:igm": (UFM, ""),
    "ufm_base:vit_only": ({"image": "classify"}, ""),
    "ufm_base:bert_only": ({"text": "mlm"}, ""),
}


def located(name):
    return f"{ROOT}/configs/{name.replace(':', '.py:')}"


def arm(name, *words):
    config = ",".join((located(name), *words))
    return main.parse(["main", f"--config={config}", "--workdir=w"])[1]


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_of_an_experiment_has_its_streams_and_teachers(name):
    streams, teachers = ARMS[name]
    made = arm(name)
    learnt = {key: set(stream.objectives) for key, stream in made.streams.items()}
    assert learnt == {key: set(names.split()) for key, names in streams.items()}
    assert set(made.teachers) == set(teachers.split())
    assert {stream for group in made.groups.values() for stream in group} == set(streams)
    assert made.merge["name"] == ("igm" if name == "ufm_base:igm" else "sum")


def test_what_the_words_change_beside_streams():
    whole = arm("xfm_base:no_stop")
    moved = [
        (stream, key)
        for stream in ("pairs", "regions")
        for key, value in whole.streams[stream].objectives.items()
        if isinstance(value, Mapping) and value["stop_text_gradient"] is False
    ]
    assert len(moved) == 5  # itm and imlm twice, bbox
    quarter = arm("xfm_base:no_stop", "quarter")
    assert 4 * quarter.total_steps in range(whole.total_steps - 3, whole.total_steps + 1)
    assert 4 * quarter.optimizer.schedule.warmup == whole.optimizer.schedule.warmup
    frozen = arm("xfm_base:mim_frozen", "chips=8")
    assert frozen.streams["pairs"].groups == 8
    assert {frozen.streams[s].objectives["mim"]["target"] for s in ("image", "pairs")} == {
        "teacher:images"
    }
    with pytest.raises(main.Refused, match="arguments joint and kd after ':' exclude each other"):
        arm("ufm_base:joint", "kd")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("xfm_base:text_only", {"text_embed", "text", "mlm_head", "temperature"}),
        ("xfm_base:image_only", {"patch_embed", "vision", "mim_head", "temperature"}),
    ],
)
def test_a_control_of_one_stream_has_no_parameters_for_others(name, parts):
    assert set(setup.prepare(arm(name, "smoke")).params) == parts


# The plain command trains models of each kind elsewhere, smaller
# (UFM: test_ufm_train.py, X-FM: tests/tasks/test_finetune_configs.py).
# The quick starts also evaluate, on the demo corpus, which they prepare. Those of fine-tuning read
# files in official layouts: tests/tasks/test_finetune_configs.py makes them.
# That of X-FM is a stage of .ci/run, too.
NIGHT = (pytest.mark.nightly,)
MARKS = {"quickstart": NIGHT, "ufm_quickstart": NIGHT}
SMOKES = [
    pytest.param(f"{path}:smoke", marks=MARKS.get(path.stem, (pytest.mark.slow,)))
    for path in CONFIGS
    if path.parent.name != "finetune"
]
SMOKES += [pytest.param(f"{located(name)},smoke", marks=NIGHT) for name in ARMS]


@pytest.mark.parametrize("config", SMOKES, ids=lambda config: config.rpartition("/")[2])
def test_every_config_runs_at_smoke_size(config, tmp_path, capfd, monkeypatch):
    one = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])  # compiles sooner
    monkeypatch.setattr(sharding, "make_mesh", one)
    jax.config.update("jax_disable_most_optimizations", True)  # compiles in half the time
    try:
        code = main.main(["main", f"--config={config}", f"--workdir={tmp_path}"])
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    assert code == 0, capfd.readouterr().err
    steps = [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]
    assert steps
    assert (tmp_path / "metrics.jsonl").exists()
