"""Every option can be set from the command line, in any order, and no other."""

import itertools
import pathlib

import pytest

from unified_fm import main
from unified_fm.config import overrides, settings

ROOT = pathlib.Path(__file__).parents[1]
QUICKSTART, UFM, XFM = (
    f"--config={ROOT}/configs/{name}"
    for name in ("quickstart.py:smoke", "ufm_base.py:smoke", "xfm_base.py")
)


def _parse(*flags, config=QUICKSTART):
    flags = [f"--config.{flag}" for flag in flags]
    return main.parse(["main", config, "--workdir=w", *flags])[1].plain()


def _at(config, path):
    for key in path.split("."):
        config = config[key]
    return config


@pytest.mark.parametrize(
    ("flag", "value"),
    [  # none of these is spelt out in configs/quickstart.py
        ("streams.pairs.max_skip=0.5", 0.5),
        ("streams.pairs.max_skip=0", 0.0),
        ("streams.pairs.shuffle=false", False),
        ("streams.pairs.threads=2", 2),
        ("streams.pairs.threads=None", None),
        ("streams.pairs.cycle=3", 3),
        ("streams.pairs.crop_scale=(0.5, 1.0)", (0.5, 1.0)),
        ("streams.pairs.crop_scale=0.5,1", (0.5, 1.0)),
        ("streams.pairs.crop_scale=[0.5,1]", (0.5, 1.0)),
        ("streams.pairs.flip=none", "none"),
        ("streams.pairs.mask_units=spans", "spans"),
        ("streams.pairs.source=['jsonl:a', 'jsonl:b']", ["jsonl:a", "jsonl:b"]),
        ("streams.regions.groups=2", 2),
        ("model.dtype=bfloat16", "bfloat16"),
        ("model.remat=full", "full"),
        ("model.attention=einsum", "einsum"),
        ("model.class_token=False", False),
        ("model.mean=[0.1,0.2,0.3]", (0.1, 0.2, 0.3)),
        ("model.text.value_bias=false", False),
        ("model.fusion.eps=1e-6", 1e-6),
        ("model.vision.layer_scale=None", None),
        ("streams.pairs.objectives.itc.gradient_scale=2", 2.0),
        ("streams.pairs.objectives.itm.exclude=ids", "ids"),
        ("streams.pairs.objectives.mim=0.25", 0.25),
        ("streams.pairs.objectives.mim.weight=0.25", 0.25),
        ("streams.pairs.objectives.mim.normalise_target=true", True),
        ("evaluate.evaluators.retrieval.rerank=10", 10),
        ("evaluate.evaluators.retrieval.ranks=[1,2]", (1, 2)),
        ("evaluate.evaluators.retrieval.options.max_words=7", 7),
        ("evaluate.evaluators.itm.options.clean=none", "none"),
        ("evaluate.evaluators.itm.options={'max_len': 9, 'size': 48, 'patch_size': 12}", None),
        ("merge.shared=text/.*", "text/.*"),
        ("optimizer.b1=0", 0.0),
        ("optimizer.clip=None", None),
        ("optimizer.schedule.warmup=1", 1),
        ("optimizer.project=[['a', (0, 1)]]", [["a", (0, 1)]]),
        ("rules.weight_decay=[('.*', 0.0)]", [(".*", 0.0)]),
        ("rules.sharding=fsdp", "fsdp"),
        ("ema=0.9", 0.9),
        ("prepare=None", None),
        ("init=None", None),
        ("telemetry.shared=text/.*", "text/.*"),
        ("checkpoint.best=retrieval/image_to_text/r1", "retrieval/image_to_text/r1"),
    ],
)
def test_E_an_option_that_the_file_does_not_spell_out(flag, value):
    path, _, text = flag.partition("=")
    found = _at(_parse(flag), path)
    if value is not None or text == "None":
        assert found == value
        assert type(found) is type(value)


def test_E_a_bare_weight_becomes_a_dict_and_the_options_of_a_dict_stay():
    config = _parse(
        "streams.pairs.objectives.mim.target=ema",  # stands there as 1.0
        "streams.pairs.objectives.itc=0.5",  # has options
        "streams.pairs.objectives.imlm=0.25",
        "ema=0.9",
    )
    objectives = config["streams"]["pairs"]["objectives"]
    assert objectives["mim"] == {"weight": 1.0, "target": "ema"}
    assert objectives["itc"] == {"weight": 0.5, "targets": "texts"}
    assert objectives["imlm"] == 0.25


def test_E_new_entries():
    config = _parse(
        "evaluate.evaluators.ranks.name=retrieval",
        "evaluate.evaluators.ranks.source=demo:scenes/val",
        "evaluate.evaluators.ranks.candidates=50",
        "evaluate.evaluators.ranks.options.max_len=9",
        "evaluate.evaluators.classify.source=a:b",  # is named like its plugin
        "evaluate.evaluators.classify.train_source=a:c",
        "evaluate.evaluators.held.name=held_out",
        "evaluate.evaluators.held.like=more",
        "evaluate.evaluators.held.source=a:b",
        "evaluate.evaluators.held.num_examples=20",
        "streams.more.pipeline=text",
        "streams.more.source=jsonl:a",
        "streams.more.batch_size=4",
        "streams.more.max_len=9",
        "streams.more.objectives.mlm=0.5",
        "streams.more.objectives.second.name=mlm",
        "streams.whole={'pipeline': 'text', 'source': 'a:b', 'batch_size': 2, 'max_len': 9, "
        "'objectives': {'mlm': 1.0}}",
        "streams.pairs.objectives.pixels=0.1",
        "teachers.old.path=runs/old",
        "teachers.old.streams=['more']",
        "gradient_groups={'a': ['pairs', 'regions', 'more', 'whole']}",
        "gradient_groups.b=['text', 'image']",
    )
    evaluators, streams = config["evaluate"]["evaluators"], config["streams"]
    options = {"max_len": 9}
    ranks = {"name": "retrieval", "source": "demo:scenes/val", "candidates": 50}
    assert evaluators["ranks"] == ranks | {"options": options}
    assert evaluators["classify"] == {"source": "a:b", "train_source": "a:c"}
    held = {"name": "held_out", "like": "more", "source": "a:b", "num_examples": 20}
    assert evaluators["held"] == held
    more = {"pipeline": "text", "source": "jsonl:a", "batch_size": 4, "max_len": 9}
    assert streams["more"] == more | {"objectives": {"mlm": 0.5, "second": {"name": "mlm"}}}
    assert streams["whole"]["batch_size"] == 2
    assert streams["pairs"]["objectives"]["pixels"] == 0.1
    assert config["teachers"] == {"old": {"path": "runs/old", "streams": ["more"]}}
    assert config["gradient_groups"]["b"] == ["text", "image"]


def test_E_none_takes_an_entry_or_an_option_out():
    config = _parse(
        "evaluate.evaluators.retrieval=None",
        "streams.image=None",
        "streams.pairs.objectives.mim=None",
        "streams.pairs.max_masked=None",
        "model.text.init=None",
    )
    assert "retrieval" not in config["evaluate"]["evaluators"]
    assert set(config["streams"]) == {"text", "pairs", "regions"}
    assert "mim" not in config["streams"]["pairs"]["objectives"]
    assert "max_masked" not in config["streams"]["pairs"]  # the pipeline's default
    assert "init" not in config["model"]["text"]
    ufm = _parse("teachers.vit=None", "streams.image.objectives.distill=None", config=UFM)
    assert list(ufm["teachers"]) == ["bert"]


def test_a_run_to_start_from_may_be_named_alone(tmp_path):
    assert _parse(f"init={tmp_path}")["init"] == str(tmp_path)
    flags = ("fresh=['a/.*']", "copy=[('a/(.*)', 'b')]", f"path={tmp_path}")
    init = _parse(*(f"init.{flag}" for flag in flags))["init"]
    assert init["fresh"] == ["a/.*"]
    assert [list(pair) for pair in init["copy"]] == [["a/(.*)", "b"]]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("streams.pairs.max_skp=0.5", "no option 'max_skp'; did you mean 'max_skip'?"),
        ("streams.text.crop_scale=(0.5,1)", "config.streams.text has no option 'crop_scale'"),
        ("streams.text.images=2", "config.streams.text has no option 'images'"),  # of regions only
        ("streams.txt.max_len=3", "no key 'txt'; did you mean 'text'?"),
        ("streams.txt=None", "no key 'txt'; did you mean 'text'?"),
        ("streams.new.max_len=3", "begins with --config.streams.NEW.pipeline=..."),
        ("streams.pairs.pipeline=image_txt", "unknown name 'image_txt' in data.pipelines; did you"),
        ("streams.pairs.source=None", "must be list or str, so 'None' cannot be set"),
        ("streams.pairs.max_skip=often", "config.streams.pairs.max_skip is float, so 'often'"),
        ("streams.pairs.shuffle=1", "config.streams.pairs.shuffle is bool, so '1' cannot"),
        ("streams.pairs.batch_size=2.5", "batch_size is 48 (int), so '2.5' cannot be set"),
        ("streams.pairs.crop_scale=0.5", "crop_scale is tuple, so '0.5' cannot be set"),
        ("streams.pairs.crop_scale=(0.5,1,2)", "crop_scale is tuple, so '(0.5,1,2)' cannot"),
        ("streams.pairs.tokenizer=x", "no option 'tokenizer'"),  # the run's
        ("streams.pairs.max_skip.x=1", "config.streams.pairs.max_skip has no key 'x'"),
        ("streams.pairs.objectives.itm.exclud=ids", "'exclud'; did you mean 'exclude'?"),
        ("streams.pairs.objectives.mlmm=1", "no key 'mlmm'; did you mean 'mlm'?"),
        ("streams.pairs.objectives.mim=much", "so 'much' cannot be set"),
        ("model.dtyp=bfloat16", "no option 'dtyp'; did you mean 'dtype'?"),
        ("model.dtype=float17", "dtype is 'float17'; did you mean 'bfloat16'? Possible: float32"),
        ("model.text.widht=3", "config.model.text has no option 'widht'; did you mean 'width'?"),
        ("model.width=3", "config.model has no option 'width'"),  # of its stacks
        ("model.parent=3", "no option 'parent'"),
        ("evaluate.evaluators.retrievl.rerank=1", "'retrievl'; did you mean 'retrieval'?"),
        ("evaluate.evaluators.retrieval.rernk=1", "'rernk'; did you mean 'rerank'?"),
        ("evaluate.evaluators.itm.options.max_ln=1", "'max_ln'; did you mean 'max_len'?"),
        ("evaluate.evaluators.x.name=retrievl", "unknown name 'retrievl' in evaluators; did you"),
        ("evaluate.evaluators.classify.batch_size=2", "classify lacks source, train_source"),
        ("merge.final_ratio=0.5", "config.merge has no option 'final_ratio'"),  # of igm only
        ("merge.groups=['a']", "config.merge has no option 'groups'"),
        ("merge.name=None", "config.merge.name must be str, so 'None' cannot be set"),
        ("teachers.vit.stream=3", "no key 'vit'; Possible: none. A new one begins with"),
        ("optimizer.schedule.warmup_steps=3", "'warmup_steps'; did you mean 'warmup'?"),
        ("checkpoint.kep=3", "no key 'kep'; did you mean 'keep'?"),
        ("gradient_groups.a=text", "config.gradient_groups.a is list, so 'text' cannot be set"),
        ("init.pth=x", "config.init has no key 'pth'; did you mean 'path'?"),
        ("lr=1", "config has no key 'lr'"),
        ("optimizer.lr=None", "config.optimizer.lr must be float, so 'None' cannot be set"),
    ],
)
def test_E_what_does_not_exist_is_refused_with_the_nearest_name(flag, message):
    with pytest.raises(main.Refused) as refusal:
        _parse(flag)
    assert message in str(refusal.value)


def test_E_another_plugin_has_other_options(caplog):
    caplog.set_level("INFO", logger="unified_fm")
    main._log.propagate = True
    try:
        config = _parse("merge.name=pcgrad", "merge.reduction=mean", config=UFM)
    finally:
        main._log.propagate = False
    assert config["merge"] == {"name": "pcgrad", "shared": "encoder/.*", "reduction": "mean"}
    assert "config.merge.name is new and does not take final_ratio, owner, t0, t1" in caplog.text
    with pytest.raises(main.Refused, match="no option 'owner'"):
        _parse("merge.name=pcgrad", "merge.owner=image", config=UFM)
    config = _parse(
        "model.name=tests.tiny",
        "model.width=16",
        "streams={}",
        "streams.t="
        "{'pipeline': 'text', 'source': 'synthetic:text', 'batch_size': 8, "
        "'objectives': {'mlm': 1.0}}",
        "tokenizer=bytes",
    )
    assert config["model"] == {"name": "tests.tiny", "vocab_size": 2000, "width": 16}


def test_E_the_order_does_not_matter():
    flags = [
        "streams={'a': {'pipeline': 'text', 'source': 'a:b', 'batch_size': 4, 'objectives': {}}}",
        "streams.a.max_len=9",
        "streams.a.objectives.mine.weight=0.5",
        "streams.a.objectives.mine.name=mlm",
        "merge.leak=0.25",
        "merge.name=graddrop",
        "gradient_groups={'a': ['a'], 'b': ['text']}",
        "streams.text={'pipeline': 'text', 'source': 'a:b', 'batch_size': 2, 'max_len': 9, "
        "'objectives': {'mlm': 1.0}}",
    ]
    orders = list(itertools.permutations(flags))[::2017]
    found = [_parse(*order) for order in orders]
    assert len(found) == 20
    assert all(config == found[0] for config in found)
    assert found[0]["merge"] == {"name": "graddrop", "leak": 0.25}
    assert found[0]["streams"]["a"]["objectives"] == {"mine": {"name": "mlm", "weight": 0.5}}
    assert _parse("seed=1", "seed=2")["seed"] == 2  # of two for one option the later


def test_E_a_teachers_own_run():
    own = f"{ROOT}/configs/teacher_bert.py:demo,smoke"
    config = _parse(
        "teachers.bert.config.model.text.width=32",  # inside of what the file names
        "teachers.bert.config.optimizer.lr=0.5",
        "teachers.vit.config.streams.image.max_skip=0.5",
        config=UFM,
    )
    bert = config["teachers"]["bert"]["config"]
    assert (bert["model"]["text"]["width"], bert["optimizer"]["lr"]) == (32, 0.5)
    assert config["teachers"]["vit"]["config"]["streams"]["image"]["max_skip"] == 0.5
    config = _parse("teachers.bert.config.total_steps=7", f"teachers.bert.config={own}", config=UFM)
    assert config["teachers"]["bert"]["config"]["total_steps"] == 7
    assert config["teachers"]["bert"]["config"]["prepare"].startswith("demo")
    with pytest.raises(main.Refused, match=r"teachers.bert.config has no key 'lr'"):
        _parse("teachers.bert.config.lr=1", config=UFM)
    with pytest.raises(main.Refused, match=r"no config file 'missing.py'"):
        _parse("teachers.bert.config=missing.py", config=UFM)


def test_E_a_plugin_of_the_users(tmp_path, monkeypatch):
    """Its signature is read as well: plain functions, no annotations, any keyword."""
    (tmp_path / "my_losses_for_overrides.py").write_text(
        "import dataclasses\n"
        "from unified_fm.objectives import base\n"
        "@dataclasses.dataclass(frozen=True, kw_only=True)\n"
        "class Objective(base.Objective):\n"
        "    rate: float = 1.0\n"
        "    table: dict = None\n"
        "    groups: int = 1\n"  # a merge is given one of this name; this is no merge
        "    note: 'Missing' = None\n"
        "    def __call__(self, net, views, batch): ...\n"
    )
    package = tmp_path / "my_parts_for_overrides"
    package.mkdir()
    (package / "loss.py").write_text((tmp_path / "my_losses_for_overrides.py").read_text())
    (package / "line.py").write_text(
        "import dataclasses\n"
        "from unified_fm.data.pipelines import base\n"
        "@dataclasses.dataclass(frozen=True, kw_only=True)\n"
        "class Pipeline(base.Pipeline):\n"
        "    length: int = 7\n"
        "import optax\n"
        "def merge(groups, strength=7, **more):\n    return optax.identity()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = _parse(
        "streams.text.objectives.mine.name=my_parts_for_overrides.loss",
        "streams.text.objectives.mine.rate=2",
        "streams.text.objectives.mine.table={'a': 1}",
        "streams.text.objectives.mine.note=anything",
        "streams.text.objectives.mine.groups=2",
        "streams.text.pipeline=my_parts_for_overrides.line",
        "streams.text.length=9",
        "merge.name=my_parts_for_overrides.line",
        "merge.strength=9",
        "merge.whatever=[1, 2]",
    )
    text = config["streams"]["text"]
    mine = {"rate": 2.0, "table": {"a": 1}, "note": "anything", "groups": 2}
    assert text["objectives"]["mine"] == {"name": "my_parts_for_overrides.loss"} | mine
    assert text["length"] == 9
    assert (config["merge"]["strength"], config["merge"]["whatever"]) == (9, [1, 2])
    with pytest.raises(main.Refused, match="did you mean 'rate'"):
        _parse(
            "streams.text.objectives.mine.name=my_parts_for_overrides.loss",
            "streams.text.objectives.mine.rat=2",
        )
    with pytest.raises(main.Refused, match="length is int, so 'x' cannot be set"):
        _parse("streams.text.pipeline=my_parts_for_overrides.line", "streams.text.length=x")


def test_E_the_config_given_is_left_as_it_is():
    config = settings.Settings().plain()
    inner = config["optimizer"]
    changed = overrides.apply(config, [("optimizer.lr", "0.5"), ("seed", "3")])
    assert (inner["lr"], config["seed"]) == (1e-4, 0)
    assert (changed["optimizer"]["lr"], changed["seed"]) == (0.5, 3)
