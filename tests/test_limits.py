"""Numbers that cannot work are refused when the config is read: key, value, what is possible."""

import pathlib

import pytest

from unified_fm import main
from unified_fm.config import file as config_file
from unified_fm.config.changes import data_changes

ROOT = pathlib.Path(__file__).parents[1]
TINY, QUICKSTART, XFM = (
    f"--config={ROOT}/{name}"
    for name in ("tests/tiny_config.py", "configs/quickstart.py", "configs/xfm_base.py:smoke")
)


def _parse(*flags, config=TINY):
    flags = [f"--config.{flag}" for flag in flags]
    return main.parse(["main", config, "--workdir=w", *flags])[1].plain()


def _refusal(*flags, config=TINY):
    with pytest.raises(main.Refused) as refusal:
        _parse(*flags, config=config)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("flag", "wanted"),
    [
        ("optimizer.lr=-0.1", "number of at least 0"),
        ("optimizer.lr=1e999", "number of at least 0"),
        ("optimizer.b1=1.0", "number in [0, 1)"),
        ("optimizer.b1=-0.1", "number in [0, 1)"),
        ("optimizer.b2=1.5", "number in [0, 1)"),
        ("optimizer.eps=0.0", "number above 0"),
        ("optimizer.eps=-1e-8", "number above 0"),
        ("optimizer.weight_decay=-0.1", "number of at least 0"),
        ("optimizer.clip=0.0", "number above 0"),
        ("optimizer.clip=-1.0", "number above 0"),
        ("optimizer.schedule.warmup=-1", "integer of at least 0"),
        ("optimizer.schedule.end=-0.5", "number in [0, 1]"),
        ("ema=1.0", "number in [0, 1)"),
        ("ema=-0.5", "number in [0, 1)"),
        ("total_steps=0", "integer of at least 1"),
        ("accumulate=0", "integer of at least 1"),
        ("log.every=0", "integer of at least 1"),
        ("log.every=-5", "integer of at least 1"),
        ("checkpoint.every=0", "integer of at least 1"),
        ("checkpoint.keep=0", "integer of at least 1"),
        ("checkpoint.keep=-1", "integer of at least 1"),
        ("checkpoint.max_failures=0", "integer of at least 1"),
        ("nonfinite.max_in_a_row=0", "integer of at least 1"),
        ("evaluate.every=-1", "integer of at least 0"),
        ("telemetry.every=-1", "integer of at least 0"),
        ("streams.text.batch_size=0", "integer of at least 1"),
        ("streams.text.max_skip=1.5", "number in [0, 1]"),
        ("streams.text.max_skip=-0.5", "number in [0, 1]"),
        ("streams.text.cycle=-1", "integer of at least 0"),
        ("streams.text.threads=-1", "integer of at least 0"),
    ],
)
def test_D7_a_number_out_of_range(flag, wanted):
    place, _, text = flag.partition("=")
    message = _refusal(flag)
    assert message.startswith(f"config.{place} must be a")
    assert wanted in message
    assert message.endswith(f"found {float(text) if '.' in text or 'e' in text else int(text)!r}")


def test_D7_the_ends_of_the_ranges():
    config = _parse(
        "optimizer.lr=0",
        "optimizer.b1=0",
        "optimizer.clip=None",
        "optimizer.weight_decay=0",
        "ema=0",
        "checkpoint.keep=1",
        "streams.text.max_skip=1",
        "optimizer.schedule.warmup=100%",
    )
    assert (config["optimizer"]["lr"], config["ema"]) == (0, 0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["mesh.fsdp=0"], "config.mesh.fsdp must be an integer of at least 1, or -1 (the rest of"),
        (["mesh.tensor=-2"], "config.mesh.tensor must be an integer of at least 1"),
        (["mesh.fsdp=-1"], "config.mesh: at most one size is -1 (the rest), found data, fsdp"),
        (["mesh.fsdp=1.5"], "config.mesh.fsdp is 1 (int), so '1.5' cannot be set"),
        (
            ["mesh.data=3"],
            "streams.image.batch_size = 8 cannot be split into 3 equal parts: mesh.da",
        ),
        (
            ["mesh.fsdp=16"],
            "batch_size = 8 cannot be split into 16 equal parts: mesh.data = -1, mes",
        ),
        (["mesh.data=4", "mesh.fsdp=2", "accumulate=2"], "16 equal parts"),
        (["accumulate=3"], "cannot be split into 3 equal parts"),
        (
            ["streams.image.size=20"],
            "config.streams.image: size 20 is not a multiple of patch_size 8",
        ),
        (["streams.image.patch_size=0"], "config.streams.image"),
        (["streams.image.num_masked=9"], "num_masked 9; an image has 4 patches"),
        (["streams.image.crop_scale=(0, 2)"], "0 < low <= high <= 1 is needed"),
        (["streams.text.max_len=2"], "config.streams.text: max_len is 2; cls, sep and one word"),
        (["streams.image.flip=non"], "config.streams.image: flip is 'non'; did you mean 'none'?"),
        (["streams.text.mask_rate=2"], "config.streams.text: "),
        (["streams.image.objectives.mim.target=ema"], "so config.ema must be a decay like 0.999"),
        (["evaluate.params=ema"], "so config.ema must be a decay like 0.999"),
        (["streams.text.objectives.mlm=1e999"], "streams.text.objectives.mlm has the weight inf"),
        (
            ["checkpoint.best_mode=low"],
            "config.checkpoint.best_mode is 'max' or 'min', found 'low'",
        ),
        (["telemetry.scope=all"], "telemetry.scope is 'model' or 'layer' or 'tensor', found 'all'"),
        (["optimizer.project=[('a', (2, 1))]"], "found ('a', (2, 1)): 2 is above 1"),
        (
            ["optimizer.project=[('(', (0, 1))]"],
            "optimizer.project lists (path regex, (low, high))",
        ),
        (["optimizer.project=[3]"], "optimizer.project lists (path regex, (low, high)), found 3"),
        (["optimizer.schedule.warmup=7"], "a warm-up of 7 updates does not fit into 6"),
        (["init.path=runs/none"], "config.init.path: there is no file or folder runs/none"),
        (["init=bert:none"], "config.init: there is no file or folder none"),
        (["init={'text': 'bert:none'}"], "config.init.text: there is no file or folder none"),
        (["init=runs/x"], "config.init: there is no file or folder runs/x"),
    ],
)
def test_D7_numbers_that_do_not_fit_each_other(flags, message):
    assert message in _refusal(*flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["model.image_size=100"],
            "config.model: image_size 100 is not a multiple of patch_size 16",
        ),
        (["model.patch_size=0"], "config.model: image_size 64 is not a multiple of patch_size 0"),
        (["model.image_size=(64,64)"], "config.model.image_size is 64 (int), so '(64,64)' cannot"),
        (["model.text.heads=3"], "config.model: width 32 is not a multiple of heads 3"),
        (["model.text.dropout=1.0"], "config.model: dropout is 1.0; it must be in [0, 1)"),
        (["model.text.width=64"], "the widths must be equal"),
        (["model.attention=fast"], "config.model: attention is 'fast'; Possible: auto"),
        (["model.position_offset=clip"], "config.model: position_offset is 'clip'; Possible"),
        (
            ["streams.regions.groups=3"],
            "config.streams.regions.batch_size = 8 cannot be split into 3",
        ),
        (["accumulate=2"], "config.streams.regions.groups = 1 cannot be cut into accumulate = 2"),
        (["streams.regions.images=12"], ""),
        (["streams.regions.images=None"], "packs several rows per image, so it lacks images"),
        (["streams.regions.randaugment=A"], 'config.streams.regions: randaugment "A" moves the'),
        (
            ["streams.text.max_len=513"],
            "config.streams.text.max_len is 513, and the model reads texts of 512 tokens at most "
            "(its max_positions is 514); possible: 3 to 512",
        ),
        (["streams.text.max_len=512"], ""),
        (
            ["model.max_positions=20"],
            "config.streams.pairs.max_len is 30, and the model reads texts of 18 tokens at most",
        ),
        (
            ["model.image_size=48"],
            "config.streams.image.size is 64, and the model reads images of model.image_size = 48",
        ),
    ],
)
def test_D7_models_and_packed_streams(flags, message):
    if message:
        assert message in _refusal(*flags, config=XFM)
    else:
        _parse(*flags, config=XFM)


@pytest.mark.parametrize(
    ("best", "message"),
    [
        (
            "retrieval/image_to_text/r_1",
            "did you mean 'retrieval/image_to_text/r1'? Possible: retri",
        ),
        ("retrievel/image_to_text/r1", "did you mean 'retrieval/image_to_text/r1'?"),
        ("grounding/mean_iou", None),
        ("grounding/iou_above_0.5", None),
        ("grounding/iou_above_0.7", "did you mean 'grounding/iou_above_0.5'?"),
        ("imlm/accuracy", "did you mean 'imlm/object_word/accuracy'?"),
        ("itm/swapped_object/ranking", None),
        ("mlm/cross_entropy", None),
        ("mlm", "which no evaluator measures"),
    ],
)
def test_D7_a_best_that_no_evaluator_measures(best, message):
    flag = f"checkpoint.best={best}"
    if message is None:
        assert _parse(flag, config=QUICKSTART)["checkpoint"]["best"] == best
    else:
        assert message in _refusal(flag, config=QUICKSTART)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("max_len=33", "options.max_len is 33, and the model reads texts of 32 tokens at most"),
        ("max_len=32", None),
        ("size=60", "options.size is 60, and the model reads images of model.image_size = 48"),
    ],
)
def test_what_evaluators_read_fits_the_model(option, message):
    flag = f"evaluate.evaluators.retrieval.options.{option}"
    if message is None:
        _parse(flag, config=QUICKSTART)
    else:
        assert f"config.evaluate.evaluators.retrieval.{message}" in _refusal(
            flag, config=QUICKSTART
        )


def test_a_text_that_nobody_reads_may_be_of_any_length():
    given = _parse("model.max_positions=32", config=QUICKSTART)
    pairs = given["streams"]["pairs"] | {"max_len": 40}
    given |= {"gradient_groups": None, "evaluate": {}}
    config_file.made(given | {"streams": {"pairs": pairs | {"objectives": {"mim": 1.0}}}})
    with pytest.raises(ValueError, match=r"pairs\.max_len is 40, and the model reads texts of 32"):
        config_file.made(given | {"streams": {"pairs": pairs | {"objectives": {"itc": 1.0}}}})


def test_D7_a_best_depends_on_the_evaluators_options():
    ranks = "evaluate.evaluators.retrieval.ranks=(3,)"
    _parse(ranks, "checkpoint.best=retrieval/text_to_image/r3", config=QUICKSTART)
    assert "'retrieval/text_to_image/r3'" in _refusal(
        ranks, "checkpoint.best=retrieval/text_to_image/r1", config=QUICKSTART
    )
    tiny = "evaluate.evaluators.words={'name': 'tests.tiny'}"  # does not say what it measures
    _parse(tiny, "checkpoint.best=words/size")
    assert "did you mean 'words/...'" in _refusal(tiny, "checkpoint.best=word/size")
    assert "Possible: none" in _refusal("checkpoint.best=words/size")
    never = "evaluate.at_end=false"
    assert "nothing is evaluated" in _refusal(tiny, never, "checkpoint.best=words/size")


def test_D7_values_of_a_wrong_type_in_a_config_file():
    for change, message in (
        (lambda c: c.update(total_steps=2.5), "config.total_steps must be int or str, found 2.5"),
        (lambda c: c.update(seed="1"), "config.seed must be int, found '1'"),
        (lambda c: c["optimizer"].update(lr="1e-3"), "config.optimizer.lr must be float, found"),
        (lambda c: c["log"].update(tensorboard=1), "config.log.tensorboard must be bool, found 1"),
        (lambda c: c["streams"]["text"].update(max_len=9.0), "text.max_len must be int, found 9.0"),
        (lambda c: c["streams"]["text"].update(objectives=["mlm"]), "objectives must be dict"),
        (lambda c: c["model"].update(width=True), "config.model.width must be int, found True"),
        (lambda c: c.update(plugins="mine"), "config.plugins must be list, found 'mine'"),
    ):
        config = _parse()
        change(config)
        with pytest.raises((TypeError, ValueError)) as error:
            config_file.made(config)
        assert message in str(error.value)


def test_a_stream_may_change_what_its_data_do_not_depend_on():
    before, now = _parse(), _parse("streams.text.threads=2", "streams.text.max_skip=0.5")
    assert data_changes(before, now) == []
    assert data_changes(before, _parse("streams.text.cycle=2"))


@pytest.mark.parametrize(("every", "saved"), [(200, 100), (100, 200), (150, 100)])
def test_the_best_step_must_be_one_that_is_saved(every, saved):
    flags = [f"evaluate.every={every}", f"checkpoint.every={saved}"]
    flags += ["checkpoint.best=itm/random_caption/accuracy"]
    if every == 150:
        text = _refusal(*flags, config=QUICKSTART)
        assert "evaluate.every = 150 must be a multiple or a divisor of checkpoint.every" in text
    else:
        assert _parse(*flags, config=QUICKSTART)["checkpoint"]["every"] == saved
