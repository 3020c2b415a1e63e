"""A tiny run, and the model that is loaded of it, for all tests of a file."""

import jax
import pytest

import unified_fm
from tests.inference import runs


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Little effort of the compiler."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return runs.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(workdir):
    return unified_fm.load(workdir, batch_size=4, devices=jax.devices()[:1])
