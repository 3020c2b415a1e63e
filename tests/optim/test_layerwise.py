"""Rates by depth: exact values, and every parameter of a stack has one."""

import json

import pytest

from tests.models import tiny_ufm, tiny_xfm
from unified_fm import rules, setup
from unified_fm.config import file as config_file
from unified_fm.optim import build
from unified_fm.optim.layerwise import layerwise, of_params


def test_the_values_of_three_layers():
    assert layerwise("fusion", 3, 0.5) == [
        ("fusion/layer_00/.*", 0.25),
        ("fusion/layer_01/.*", 0.5),
        ("fusion/layer_02/.*", 1.0),
    ]
    assert layerwise("text", 2, 0.1) == [
        ("text/layer_00/.*", 0.1),
        ("text/layer_01/.*", 1.0),
        ("text_embed/.*", 0.1**2),
    ]


def test_BEiT_base_at_its_published_decay():
    scales = dict(layerwise("vision", 12, 0.65))
    assert scales["vision/layer_11/.*"] == 1
    assert scales["vision/layer_00/.*"] == pytest.approx(0.65**11)
    assert list(scales.values())[-1] == pytest.approx(0.65**12)


def scales_of(params, *stacks):
    lists = [rule for stack in stacks for rule in layerwise(stack, 2, 0.5)]
    assigned = build.assigned_rules(params, {"lr_scale": [*lists, (".*", 7.0)]})["lr_scale"]
    return dict(rules.named_leaves(assigned))


def test_every_parameter_of_X_FM():
    two = tiny_xfm.LAYER | {"layers": 2}
    net = tiny_xfm.model(text=two, vision=two, fusion=two, absolute_positions=True)
    scales = scales_of(tiny_xfm.shapes(net), "text", "vision", "fusion")
    of = {}
    for path, scale in scales.items():
        of.setdefault(scale, set()).add("/".join(path.split("/")[:2]))
    assert of[1.0] == {"text/layer_01", "vision/layer_01", "fusion/layer_01"}
    assert of[0.5] == {"text/layer_00", "vision/layer_00", "fusion/layer_00"}
    assert of[0.25] == {
        *("text_embed/word", "text_embed/position", "text_embed/token_type", "text_embed/norm"),
        *("patch_embed/kernel", "patch_embed/bias", "vision/class_token", "vision/position"),
        "vision/mask_token",
    }
    assert "vision/norm" in of[7.0]
    assert all(path.split("/")[0] not in ("text", "fusion") for path in of[7.0])


def test_every_parameter_of_UFM():
    net = tiny_ufm.student(encoder=tiny_ufm.LAYERS | {"layers": 2}, modality_embedding=True)
    scales = scales_of(tiny_ufm.shapes(net, tiny_ufm.everything, tiny_ufm.batches()), "encoder")
    lowest = {path.split("/")[0] for path, scale in scales.items() if scale == 0.25}
    assert lowest == {"text_embed", "patch_embed", "vision", "modality_embed"}
    assert {path.split("/")[0] for path, scale in scales.items() if scale == 7.0} == {
        *("encoder", "mlm_head", "image_head")  # of the encoder its last norm
    }


SMALL = {"width": 16, "heads": 2, "mlp_width": 32}
STARTS = {
    "a deeper X-FM": ({"name": "xfm", "vision": SMALL | {"layers": 14}}, "vision", 14),
    "UFM": ({"name": "ufm", "vocab_size": 300, "encoder": SMALL | {"layers": 2}}, "encoder", 2),
    "ViT": ({"name": "vit", "vision": SMALL | {"layers": 3}}, "vision", 3),
}


@pytest.mark.parametrize("start", STARTS)
def test_the_config_counts_the_layers_of_what_it_starts_from(start, tmp_path):
    model, stack, layers = STARTS[start]
    (tmp_path / "config.json").write_text(json.dumps({"model": model}))
    spec = "finetune/image_classification:layerwise"
    settings = config_file.load(spec, [f"init={tmp_path}"])
    params = setup.prepare(settings).params
    values = build.assigned_rules(params, settings.rules.plain())["lr_scale"]
    scales = {"/".join(path.split("/")[:2]): scale for path, scale in rules.named_leaves(values)}
    found = {path: scale for path, scale in scales.items() if path.startswith(f"{stack}/layer_")}
    expected = {f"{stack}/layer_{i:02d}": 0.65 ** (layers - i) for i in range(layers)}
    assert found == pytest.approx(expected)
    assert scales["patch_embed/kernel"] == pytest.approx(0.65 ** (layers + 1))
    assert {scale for path, scale in scales.items() if path.startswith("class_head/")} == {1.0}
    assert scales[f"{stack}/norm"] == 1.0


def test_a_model_without_layers_has_no_rates_by_layer():
    with pytest.raises(ValueError, match=r"layerwise:0.5 needs .*\(text, vision, .* has mlp_head"):
        of_params({"mlp_head": {"kernel": 0}}, 0.5)


@pytest.mark.parametrize("text", ["layerwise:", "layerwise:2", "layerwise:much"])
def test_a_decay_that_is_none_is_refused_without_a_model(text):
    with pytest.raises(ValueError, match=r"layerwise:DECAY needs a number in \(0, 1\], found"):
        build.named_rules("lr_scale", text)


def test_a_list_that_misses_its_parameters_is_refused_before_the_run():
    given = [("vision/layer_02/.*", 0.5), (".*", 1.0)]
    settings = config_file.load(
        "finetune/image_classification:smoke", [f"rules.lr_scale={given!r}"]
    )
    with pytest.raises(ValueError, match=r"rules.lr_scale: 1 rule\(s\) decide no parameter"):
        setup.prepare(settings).fresh_state()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("txt", 3, 0.5),
            "stack is 'txt'; did you mean 'text'. *Possible: text, vision, enc",
        ),
        (("text", 0, 0.5), "found 0 and 0.5"),
        (("text", 3, 0.0), "found 3 and 0.0"),
        (("text", 3, 1.5), "found 3 and 1.5"),
    ],
)
def test_what_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        layerwise(*arguments)
