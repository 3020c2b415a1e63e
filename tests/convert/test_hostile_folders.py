"""Whatever a folder of weights holds: loading works, or gives one of the two documented errors."""

import json
import time
import tracemalloc

import pytest

from tests.convert import hostile_folders
from tests.convert.test_parity import import_golden
from unified_fm.checkpoint import start as way_in
from unified_fm.convert import families, source
from unified_fm.convert.errors import CheckpointFormatError, ConversionError
from unified_fm.convert.hf_models import model_options
from unified_fm.convert.readers.weights import read_config
from unified_fm.convert.table import flatten

MIB = 2**20


def attempt(function, *args, **kwargs):
    """What the function returns; None if it refuses, with a message of a page at most."""
    try:
        return function(*args, **kwargs)
    except (CheckpointFormatError, ConversionError) as error:
        assert len(str(error)) < 100_000
        str(error).encode()  # it can be printed
        return None


def check(seed, folder):
    """One folder: refused, or right; a second and a few megabytes at most."""
    family, path, kind = hostile_folders.make(seed, folder)
    start = time.process_time()
    tracemalloc.start()
    tree = attempt(families.load, family, path, fallback_heads={"vision": 2})
    attempt(lambda: model_options(read_config(path)))
    kept = attempt(lambda: source.of_hf(family, read_config(path)))
    if kept is not None:
        assert source.checked(json.loads(json.dumps(kept))) == kept
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 8 * MIB, f"seed {seed}: {taken} bytes"
    assert time.process_time() - start < 2.0, f"seed {seed}"
    if tree is None:
        return True
    if kind in ("config", "index"):
        # Parts that the index leaves out, a pooler or a head, may be missing.
        found, saved = values(tree), values(model_of(family))
        assert found.items() <= saved.items(), f"seed {seed}: other numbers than in the files"
    else:
        # A model of another grid: what is loaded is resized, or refused.
        wanted = model_of("vit" if family == "augreg" else family)
        allow = [".*pos.*", ".*head.*"]
        init = {"path": f"{family}:{path}", "heads": 2, "allow": allow}
        attempt(way_in.read, init, {name: leaf.shape for name, leaf in flatten(wanted).items()})
    return False


def model_of(family):
    name = next(name for name in hostile_folders.MODELS if name.split("_")[0] == family)
    config, params = hostile_folders.good(name)
    return import_golden(name, params, config)


def values(tree):
    """The bytes of all arrays: another number of heads changes shapes, but none of them."""
    return {name: leaf.tobytes() for name, leaf in flatten(tree).items()}


@pytest.mark.slow
def test_D5_two_hundred_wrong_folders(tmp_path):
    refused = sum(check(seed, tmp_path / "x") for seed in range(200))
    assert 80 < refused < 200


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 9000, 500))
@pytest.mark.nightly
def test_D5_eight_thousand_wrong_folders(tmp_path, first):
    refused = sum(check(seed, tmp_path / "x") for seed in range(first, first + 500))
    assert 250 < refused < 500
