"""Which attention is taken where, and the padded, fused one against the einsum."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_xfm import jit
from unified_fm import placement
from unified_fm.models import fused
from unified_fm.models.attention import attend, relative_position_index
from unified_fm.models.config import EncoderConfig
from unified_fm.models.encoders import Encoder
from unified_fm.models.rows import Rows

HALF = {"dtype": jnp.bfloat16, "head_width": 64}


def on(platform):
    """A step for a platform that need not be here."""
    return placement.use(placement.Placement(platform=platform))


@pytest.fixture
def gpu():
    try:
        return jax.devices("gpu")[0]
    except RuntimeError:
        pytest.skip("no GPU device exists")


def draw(rows, queries, keys, heads=2, width=8, dtype=np.float32):
    rng = np.random.default_rng(0)
    sizes = [(rows, n, heads, width) for n in (queries, keys, keys)]
    return [jnp.asarray(rng.normal(size=size), dtype) for size in sizes]


@pytest.mark.parametrize(
    ("platform", "changes", "expected"),
    [
        ("gpu", {}, "cudnn"),
        ("gpu", {"dtype": jnp.float32}, "einsum"),
        ("gpu", {"head_width": 4}, "einsum"),
        ("gpu", {"drops": True}, "einsum"),
        ("gpu", {"masked": True}, "einsum"),
        ("tpu", {}, "xla"),
        ("tpu", {"drops": True}, "einsum"),
        ("cpu", {}, "einsum"),
    ],
)
def test_auto_takes_the_fused_one_where_it_can_be_had(platform, changes, expected):
    with on(platform):
        assert fused.choose("auto", **HALF | changes).name == expected


def test_the_platform_is_that_of_the_placement_and_else_of_jax():
    assert placement.platform() == jax.default_backend()
    with on("tpu"):
        assert placement.platform() == "tpu"


@pytest.mark.parametrize(
    ("asked", "platform", "changes", "reason"),
    [
        ("cudnn", "cpu", {}, "for GPUs, and this is a CPU"),
        ("cudnn", "gpu", {"dtype": jnp.float32}, "half precision, and dtype is float32"),
        ("cudnn", "gpu", {"head_width": 20}, "16, ... 128 wide, and these are 20"),
        ("cudnn", "gpu", {"drops": True}, "only the einsum drops"),
        ("xla", "gpu", {"drops": True}, "only the einsum drops"),
    ],
)
def test_what_was_asked_for_and_cannot_be_had_is_refused(asked, platform, changes, reason):
    with on(platform), pytest.raises(ValueError, match=reason):
        fused.choose(asked, **HALF | changes)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"attention": "cudnn"}, "half precision, and dtype is float32"),
        ({"attention": "cudnn", "dtype": "bfloat16", "heads": 64}, "these are 12"),
        (
            {"attention": "cudnn", "dtype": "bfloat16", "attention_dropout": 0.1},
            "only the einsum drops, and attention_dropout is 0.1",
        ),
        ({"attention": "xla", "attention_dropout": 0.1}, "only the einsum drops"),
    ],
)
def test_numbers_of_an_encoder_that_exclude_its_attention_are_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        EncoderConfig(**fields)
    assert EncoderConfig(**fields | {"attention": "auto"})


def test_the_padded_form_is_the_einsum_in_value_and_gradients():
    """Of a table of relative positions, too: 1 + 3 x 3 tokens, padded to 16."""
    index = relative_position_index(3)
    query, key, value = draw(3, 10, 10)
    table = jnp.asarray(np.random.default_rng(1).normal(size=(5 * 5 + 3, 2)), jnp.float32)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=query.shape), jnp.float32)

    def total(attention, *args):
        *qkv, table = args
        y = attention(*qkv, bias=table[index].transpose(2, 0, 1))
        return (y * weights).sum(), y

    found = {}
    for name, attention in {
        "einsum": functools.partial(attend, implementation="einsum"),
        "fused": functools.partial(fused.attend, implementation="xla"),
    }.items():
        grad = jax.value_and_grad(total, argnums=(1, 2, 3, 4), has_aux=True)
        (_, y), gradients = jit(grad, static_argnums=0)(attention, query, key, value, table)
        found[name] = (y, *gradients)
    for expected, got in zip(found["einsum"], found["fused"], strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    assert np.abs(found["fused"][-1]).max() > 0.1


@pytest.mark.parametrize("biased", [False, True])
def test_lengths_hide_what_a_mask_of_them_hides(biased):
    query, key, value = draw(3, 4, 7)
    lengths = jnp.array([7, 2, 0])
    mask = (jnp.arange(7) < lengths[:, None])[:, None, None]
    bias = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 7)), jnp.float32)
    bias = bias if biased else None
    y = fused.attend(query, key, value, lengths=lengths, bias=bias, implementation="xla")
    expected = attend(query, key, value, mask=mask, bias=bias, implementation="einsum")
    np.testing.assert_allclose(y[:2], expected[:2], atol=1e-5)
    np.testing.assert_allclose(y[2], np.broadcast_to(value[2, :1], y[2].shape), atol=1e-5)


def test_odd_lengths_are_padded_and_the_padding_is_not_seen():
    query, key, value = draw(2, 5, 7)
    y = fused.attend(query, key, value, implementation="xla")
    np.testing.assert_allclose(y, attend(query, key, value, implementation="einsum"), atol=1e-5)


@pytest.mark.slow
def test_padded_texts_on_a_gpu_are_told_by_their_lengths(monkeypatch):
    """With XLA in cuDNN's place, the encoder gives what the einsum gives."""
    config = EncoderConfig(
        layers=2, width=16, heads=2, mlp_width=8, dtype="bfloat16", attention_dropout=0.1
    )
    lines = []
    log = types.SimpleNamespace(info=lambda form, line: lines.append(line))
    monkeypatch.setattr(fused, "_log", log)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 16)), jnp.bfloat16)
    mask = np.arange(6) < np.array([6, 2, 4])[:, None]
    encoder = Encoder(config, padded=True, name="text")
    with on("gpu"):  # where cuDNN is missing, parameters can be made all the same
        params = encoder.init(jax.random.key(0), x, mask)["params"]
    told = []

    def attention(*args, lengths, **options):
        told.append(lengths)
        return fused_attend(*args, lengths=lengths, implementation="xla", **options)

    fused_attend = fused.attend
    monkeypatch.setattr(fused, "attend", attention)
    fused.tell.cache_clear()

    def run(encoder, rows=None, mask=mask):
        return encoder.apply({"params": params}, x, mask, rows)

    expected = run(encoder)
    assert not told
    with on("gpu"):
        np.testing.assert_allclose(run(encoder), expected, atol=0.05)
        assert len(told) == 1 and told[0].tolist() == [6, 2, 4]  # one layer is traced for all
        run(encoder, Rows((3,), keys=(jax.random.key(0),)))  # something is dropped
        run(Encoder(config, name="text"))  # the padding may be anywhere
        run(encoder, mask=np.broadcast_to(np.tri(6, dtype=bool), (3, 6, 6)))
        assert len(told) == 1
    assert lines == [
        "attention of Encoder to itself: einsum (cuDNN's is for GPUs, and this is a CPU)",
        "attention of Encoder to itself: cudnn (fused, on a GPU)",
        "attention of Encoder to itself: einsum (attention_dropout is above 0, and only the "
        "einsum drops)",
        "attention of Encoder to itself: einsum (each row has a mask of its own, which cuDNN's "
        "takes as a bias)",
    ]


@pytest.mark.gpu
@pytest.mark.parametrize("case", ["bias", "lengths", "odd", "cross"])
def test_cudnn_gives_what_the_einsum_gives(gpu, case):
    """In bfloat16, of whose rounding the einsum in float32 is the measure."""
    queries, keys = (60, 197) if case == "cross" else (197, 197)
    given = draw(4, queries, keys, heads=12, width=64, dtype=jnp.bfloat16)
    table = jnp.asarray(np.random.default_rng(1).normal(size=(27 * 27 + 3, 12)), jnp.float32)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=given[0].shape), jnp.float32)
    lengths = jnp.array([197, 100, 1, 32]) if case == "lengths" else None

    def total(implementation, dtype, query, key, value, table):
        bias = mask = None
        if case == "bias":
            bias = table[relative_position_index(14)].transpose(2, 0, 1)
        if lengths is not None:
            mask = (jnp.arange(keys) < lengths[:, None])[:, None, None]
        query, key, value = (x.astype(dtype) for x in (query, key, value))
        y = attend(
            query,
            key,
            value,
            mask=mask,
            lengths=lengths,
            bias=bias,
            implementation=implementation,
        )
        return (y.astype(jnp.float32) * weights).sum(), y

    grad = jax.value_and_grad(total, argnums=(2, 3, 4, 5), has_aux=True)
    grad = jax.jit(grad, static_argnums=(0, 1))
    with jax.default_device(gpu), jax.default_matmul_precision("highest"):
        (_, y), gradients = grad("cudnn", jnp.bfloat16, *given, table)
        (_, exact), exact_gradients = grad("einsum", jnp.float32, *given, table)
    for found, expected in zip((y, *gradients), (exact, *exact_gradients), strict=True):
        found, expected = (np.asarray(x, np.float64) for x in (found, expected))
        assert np.isfinite(found).all()
        scale = max(np.sqrt((expected**2).mean()), 1e-6)
        assert np.sqrt(((found - expected) ** 2).mean()) < 0.02 * scale
    if case == "bias":
        assert np.abs(gradients[-1]).max() > 0.1
