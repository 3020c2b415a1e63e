"""Our own checkpoints of other formats: earlier ones are read by today's names, newer refused."""

import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.convert.make_format_fixture import FILES, KERNEL, PARAMS
from unified_fm.checkpoint import formats
from unified_fm.checkpoint import store as checkpoint
from unified_fm.convert.rows import Row
from unified_fm.convert.table import flatten
from unified_fm.step import TrainState

# An invented history: format 2 renamed the MLP, format 3 the temperature.
RENAMES = {
    1: [Row("text/layer_{i}/ffn/in/kernel", "text/layer_{i}/mlp_in/kernel")],
    2: [Row("scale", "temperature")],
}


@pytest.fixture
def format_1(tmp_path):
    """The checkpoint that the first release's code wrote."""
    with zipfile.ZipFile(FILES / "format_1.zip") as file:
        file.extractall(tmp_path / "format_1")
    return tmp_path / "format_1"


@pytest.fixture
def format_3(monkeypatch):
    """Turns this library into a later one."""
    monkeypatch.setattr(formats, "FORMAT", 3)
    monkeypatch.setattr(formats, "RENAMES", RENAMES)


def test_every_format_has_its_fixture_and_its_renames():
    numbers = range(1, formats.FORMAT + 1)
    assert all((FILES / f"format_{number}.zip").is_file() for number in numbers)
    assert list(formats.RENAMES) == list(numbers)[:-1]


def test_row_30_the_first_format_is_read(format_1):
    found, wanted = flatten(checkpoint.load_params(format_1)), flatten(PARAMS)
    assert found.keys() == wanted.keys()
    assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)


def test_row_30_two_formats_later_it_is_read_by_the_new_names(format_1, format_3):
    found = checkpoint.load_params(format_1)
    assert sorted(flatten(found)) == [
        "scale",
        "text/layer_00/ffn/in/kernel",
        "text/layer_00/mlp_in/bias",
        "text/layer_01/ffn/in/kernel",
        "text/layer_01/mlp_in/bias",
    ]
    np.testing.assert_array_equal(found["text"]["layer_01"]["ffn"]["in"]["kernel"], KERNEL + 10)


def test_row_30_a_run_of_an_earlier_format_goes_on(tmp_path, monkeypatch):
    """The moments and the average are renamed like the parameters that they belong to."""

    def state(name):
        params = {"text": {"layer_00": {name: {"kernel": jnp.asarray(KERNEL)}}}}
        tx = optax.scale_by_adam()
        made = TrainState(step=jnp.int32(3), params=params, opt_state=tx.init(params))
        return made.replace(ema=params)

    saved = checkpoint.Checkpoints(tmp_path)
    saved.save(3, state("mlp_in"), position={"text": 5}, config={})
    saved.close()
    monkeypatch.setattr(formats, "FORMAT", 2)
    rename = Row("text/layer_{i}/ffn_in/kernel", "text/layer_{i}/mlp_in/kernel")
    monkeypatch.setattr(formats, "RENAMES", {1: [rename]})
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), state("ffn_in")
    )
    restored, position = checkpoint.Checkpoints(tmp_path, read_only=True).restore(target)
    assert jax.tree.structure(restored) == jax.tree.structure(state("ffn_in"))
    np.testing.assert_array_equal(restored.ema["text"]["layer_00"]["ffn_in"]["kernel"], KERNEL)
    assert int(restored.step) == 3 and position == {"text": 5}


def test_row_30_a_newer_format_is_refused_with_both_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "FORMAT", 7)
    checkpoint.save_params(tmp_path / "new", PARAMS)
    monkeypatch.undo()
    message = "new/0 is of format 7, this version of unified_fm reads formats 1 to 1: use the ver"
    with pytest.raises(ValueError, match=message):
        checkpoint.load_params(tmp_path / "new")


def test_older_undoes_newer(format_3):
    tree = {"opt_state.0.mu.text.layer_11.mlp_in.kernel": 1, "step": 2, "ema.temperature": 3}
    renamed = formats.newer(tree, 1)
    assert renamed == {"opt_state.0.mu.text.layer_11.ffn.in.kernel": 1, "step": 2, "ema.scale": 3}
    assert formats.older(renamed, 1) == tree
    assert formats.newer(renamed, 3) == renamed
