"""The tiny run of the tests of `unified_fm.load`, and its model."""

from tests.inference.conftest import model, quick, workdir

__all__ = ["model", "quick", "workdir"]
