"""Layer norm against float64, on inputs near and far from zero."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_xfm import jit
from unified_fm.models.layer_norm import LayerNorm, standardise

RATIOS = (0, 1, 30, 1000, 3000)  # mean / deviation
WIDTHS = (64, 768)


def rows(width, ratio, seed=0):
    """f32[16 width] of deviation 1; the mean is +-ratio."""
    rng = np.random.default_rng(seed)
    mean = ratio * np.where(np.arange(16) % 2, 1, -1)
    return (rng.normal(size=(16, width)) + mean[:, None]).astype(np.float32)


def in_float64(x, eps):
    """(standardised, 1 / deviation) of the float32 numbers as they are."""
    x = np.asarray(x, np.float64)
    centred = x - x.mean(-1, keepdims=True)
    inverse = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return centred * inverse, inverse


@pytest.mark.parametrize("eps", [1e-12, 1e-5])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("ratio", RATIOS)
def test_A7_inputs_far_from_zero_keep_their_digits(ratio, width, eps):
    """The one-pass variance is off by 0.3 at a ratio of 1,000 and by 4e6 at 3,000."""
    x = rows(width, ratio)
    found = jit(standardise, static_argnums=1)(x, eps)
    np.testing.assert_allclose(found, in_float64(x, eps)[0], atol=2e-6)


@pytest.mark.parametrize("ratio", RATIOS)
def test_A7_so_does_the_gradient(ratio):
    x = rows(64, ratio)
    towards = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    found = jit(jax.grad(lambda x: (standardise(x, 1e-12) * towards).sum()))(x)
    y, inverse = in_float64(x, 1e-12)
    along = y * (towards * y).mean(-1, keepdims=True)
    expected = inverse * (towards - towards.mean(-1, keepdims=True) - along)
    np.testing.assert_allclose(found, expected, atol=4e-6)


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 0.1])
def test_the_gradient_is_that_of_the_plain_formula(eps):
    def plain(x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)

    x = rows(8, 1) * 0.3
    one, two = (
        jit(jax.grad(lambda x, f=f: jnp.sin(3 * f(x)).sum()))(x)
        for f in (plain, lambda x: standardise(x, eps))
    )
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)


def test_a_row_without_variance_is_zero_and_has_a_finite_gradient():
    x = np.full((2, 6), 3000.1, np.float32)
    value, gradient = jit(jax.value_and_grad(lambda x: standardise(x, 1e-12).sum()))(x)
    assert value == 0
    assert np.isfinite(gradient).all()


def test_scale_bias_and_dtype():
    x = rows(64, 30)
    module = LayerNorm(1e-5, jnp.bfloat16)
    p = {"scale": np.linspace(0.5, 2, 64), "bias": np.linspace(-1, 1, 64)}
    p = jax.tree.map(np.float32, p)
    assert jax.tree.map(jnp.shape, module.init(jax.random.key(0), x)["params"]) == {
        "bias": (64,),
        "scale": (64,),
    }

    def apply(p, x):
        return module.apply({"params": p}, x)

    found = jit(apply)(p, jnp.asarray(x, jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    expected, _ = in_float64(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32), 1e-5)
    expected = expected * p["scale"] + p["bias"]
    np.testing.assert_allclose(found.astype(np.float32), expected, atol=0.02)  # bfloat16's half ulp
    gradient = jit(jax.grad(lambda x: apply(p, x).astype(jnp.float32).sum()))(
        jnp.asarray(x, jnp.bfloat16)
    )
    assert gradient.dtype == jnp.bfloat16


def test_A7_no_model_has_another_layer_norm():
    folder = pathlib.Path(__file__).parents[2] / "unified_fm"
    found = [
        path.name
        for path in folder.rglob("*.py")
        if path.parent.name != "published"  # PyTorch's, as the published program has it
        and any(word in path.read_text() for word in ("nn.LayerNorm", "nn.standardize", "jnp.var("))
    ]
    assert found == []


@pytest.mark.torch
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("ratio", RATIOS)
def test_A7_the_error_is_at_most_twice_that_of_torch(ratio, width):
    torch = pytest.importorskip("torch")
    x = rows(width, ratio)
    theirs = torch.nn.functional.layer_norm(torch.tensor(x), (width,), eps=1e-12).numpy()
    ours = jit(standardise, static_argnums=1)(x, 1e-12)
    expected, _ = in_float64(x, 1e-12)
    least = 4e-7  # half a digit of the largest values
    assert np.abs(ours - expected).max() <= 2 * max(np.abs(theirs - expected).max(), least)
