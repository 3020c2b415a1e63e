"""Names and numbers of X-FM's parameters, and how they are drawn."""

import math
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import tiny_xfm
from unified_fm.models import draws
from unified_fm.models.config import EncoderConfig
from unified_fm.models.xfm import Model

NAMES = pathlib.Path(__file__).parent / "xfm_parameters.txt"


def flat(tree):
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in paths}


@pytest.fixture(scope="module")
def base():
    """Shapes at the published size; nothing is computed."""
    rows = {"text": (1, 4), "text_masked": (1, 4)}
    pairs = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in rows.items()} | {
        "text_mask": jax.ShapeDtypeStruct((1, 4), bool),
        "image": jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.uint8),
        "patch_mask": jax.ShapeDtypeStruct((1, 196), bool),
    }
    init = nn.init(tiny_xfm.everything, Model())
    return flat(jax.eval_shape(init, jax.random.key(0), {"pairs": pairs})["params"])


def test_names_and_shapes_are_the_recorded_ones():
    net = tiny_xfm.model()
    found = [f"{path} {x.shape}" for path, x in sorted(flat(tiny_xfm.shapes(net)).items())]
    assert found == NAMES.read_text().splitlines()


def test_pre_layer_norm_stacks_have_final_norms_and_optional_scales():
    pre = tiny_xfm.LAYER | {"norm": "pre", "layer_scale": 1.0}
    net = tiny_xfm.model(text=pre, fusion=pre, vision=pre, absolute_positions=True)
    names = set(flat(tiny_xfm.shapes(net))) - set(flat(tiny_xfm.shapes(tiny_xfm.model())))
    assert sorted(names) == [
        "fusion/layer_00/scale_attn",
        "fusion/layer_00/scale_cross",
        "fusion/layer_00/scale_mlp",
        "fusion/norm/bias",
        "fusion/norm/scale",
        "text/layer_00/scale_attn",
        "text/layer_00/scale_mlp",
        "text/norm/bias",
        "text/norm/scale",
        "vision/position",
    ]


def test_a_model_creates_only_what_its_streams_use():
    net = tiny_xfm.model()
    batches = tiny_xfm.make_batches()
    tree = jax.eval_shape(nn.init(lambda net, b: net(b), net), jax.random.key(0), batches["image"])
    assert set(tree["params"]) == {"patch_embed", "vision", "temperature"}


@pytest.mark.parametrize(
    ("parts", "count"),  # X-FM section 1.8
    [
        (("text_embed/",), 39_000_576),
        (("text/layer_00/",), 7_087_872),
        (("fusion/layer_00/cross_",), 2_363_904),
        (("text_embed/", "text/"), 124_055_040),
        (("mlm_head/",), 642_393),
        (("vision/", "patch_embed/"), 85_762_752),
        (("fusion/",), 113_421_312),
        (("text_proj/", "image_proj/", "temperature", "itm_head/", "box_head/"), 2_771_463),
        (("fusion_mlm_head/embedding",), 38_603_520),
        (("",), 327_295_353 + 38_603_520),
        (("",), 365_898_873),
    ],
)
def test_base_size_has_the_published_counts(base, parts, count):
    assert sum(math.prod(x.shape) for path, x in base.items() if path.startswith(parts)) == count


def test_all_parameters_are_float32_whatever_the_compute_dtype():
    tree = flat(tiny_xfm.shapes(tiny_xfm.model(dtype="bfloat16")))
    assert {x.dtype.name for x in tree.values()} == {"float32"}


@pytest.mark.parametrize(
    ("scale", "index", "expected"),
    [
        ("none", 2, 0.02),
        ("stack", 2, 0.02 / math.sqrt(2 * 8)),
        ("layer", 0, 0.02 / math.sqrt(2)),
        ("layer", 2, 0.02 / math.sqrt(6)),
    ],
)
def test_deviation_of_kernels_that_write_to_the_residual_stream(scale, index, expected):
    config = EncoderConfig(layers=8, residual_init_scale=scale)
    x = draws.residual_kernel(config, index)(jax.random.key(0), (200, 200))
    assert x.std() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("init", "deviation", "largest"),
    [
        ("normal", 0.02, None),
        ("truncated_normal", 0.02 * 0.8796, 0.04),  # of a normal cut at two deviations
        ("lecun_normal", 1 / math.sqrt(300), None),
        ("uniform_fan_in", 1 / math.sqrt(300) / math.sqrt(3), 1 / math.sqrt(300)),
    ],
)
def test_distribution_of_kernels(init, deviation, largest):
    draw = draws.kernel(EncoderConfig(init=init, init_std=0.02))
    x = np.asarray(draw(jax.random.key(0), (300, 200)))
    assert x.std() == pytest.approx(deviation, rel=0.02)
    if largest:
        assert largest * 0.99 < np.abs(x).max() <= largest


def test_initial_values_by_config():
    sizes = {"word_std": 0.1, "position_std": 0.3, "patch_position_std": 0.2}
    net = tiny_xfm.model(vocab_size=400, max_positions=60, absolute_positions=True, **sizes)
    x = jnp.zeros((1, 16))

    def some(net):
        tokens = net.vision_encoder.tokens(jnp.zeros((1, 16, 16)))
        return tokens, net.text_embed(jnp.zeros((1, 4), int)), net.text_proj(x), net.itm_head(x)

    tree = flat(tiny_xfm.jit(nn.init(some, net))(jax.random.key(0))["params"])
    assert tree["text_embed/word/embedding"].std() == pytest.approx(0.1, rel=0.05)
    assert tree["text_embed/position/embedding"].std() == pytest.approx(0.3, rel=0.1)
    assert tree["vision/position"].std() == pytest.approx(0.2, rel=0.15)
    assert tree["temperature"] == pytest.approx(0.07)
    # Head Linears are PyTorch's default: uniform within 1 / sqrt(fan_in), biases too.
    for name in ("itm_head/dense/kernel", "itm_head/dense/bias", "text_proj/kernel"):
        assert 0.8 / math.sqrt(16) < np.abs(tree[name]).max() <= 1 / math.sqrt(16)


def test_an_unknown_field_of_an_encoder_names_the_nearest():
    with pytest.raises(TypeError, match=r"no field 'mlp_widht'.*did you mean 'mlp_width'"):
        tiny_xfm.shapes(tiny_xfm.model(text={"mlp_widht": 3}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": tiny_xfm.LAYER | {"norm": "post_"}}, "norm is 'post_'.*did you mean 'post'"),
        ({"text": tiny_xfm.LAYER | {"heads": 3}}, "width 16 is not a multiple of heads 3"),
        ({"fusion": tiny_xfm.LAYER | {"width": 32}}, "widths must be equal"),
        ({"dtype": "float16"}, r"dtype is 'float16'; did you mean 'bfloat16'\? Possible: float32"),
        ({"position_offset": "gpt"}, "position_offset is 'gpt'"),
        ({"image_size": 18}, "image_size 18 is not a multiple of patch_size 4"),
    ],
)
def test_impossible_models_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_xfm.shapes(tiny_xfm.model(**changes))
