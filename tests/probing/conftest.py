"""A tiny run, as `tests/inference` makes it, for the slow tests of a file."""

import pytest

from tests.inference import runs


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return runs.make(tmp_path_factory.mktemp("tiny"))
