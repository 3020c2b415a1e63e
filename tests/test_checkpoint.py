import logging
import pathlib
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.loop_runs import no_large_files
from unified_fm import choices
from unified_fm.checkpoint import checksums, retention
from unified_fm.checkpoint import diff as tree_diff
from unified_fm.checkpoint import store as checkpoint
from unified_fm.optim.spikes import Spikes
from unified_fm.runtime import workdir
from unified_fm.step import TrainState

PARAMS = {
    "text": {"mlp_in": {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4)}},
    "temperature": np.float32(0.07),
}
CONFIG = {"model": {"name": "xfm"}, "rules": [[".*", 1.0]]}


def _state(step=0, params=PARAMS, ema=True):
    params = jax.tree.map(lambda x: jnp.asarray(x) + step, params)
    tx = optax.chain(optax.identity(), optax.masked(optax.scale_by_adam(), True))
    state = TrainState(step=jnp.int32(step), params=params, opt_state=tx.init(params))
    return state.replace(ema=jax.tree.map(lambda x: x * 2, params)) if ema else state


def _target(state):
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), state)


def _save(checkpoints, step):
    return checkpoints.save(step, _state(step), position={"text": step}, config=CONFIG)


def _assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_step_that_is_saved_is_not_looked_at_again(tmp_path, monkeypatch):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    _save(checkpoints, 1)
    monkeypatch.setattr(checksums, "of", lambda tree: pytest.fail("computed for nothing"))
    assert _save(checkpoints, 1)
    checkpoints.close()


@pytest.mark.parametrize("gone", [1, 2])
def test_a_step_that_the_run_removes_under_a_reader_is_none(tmp_path, caplog, gone):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    for step in (1, 2):
        _save(checkpoints, step)
    checkpoints.close()
    reader = checkpoint.Checkpoints(tmp_path, read_only=True)
    shutil.rmtree(tmp_path / str(gone))
    assert reader.steps() == [3 - gone]
    assert "lacks" not in caplog.text


@pytest.mark.parametrize("ema", [True, False])
def test_a_state_comes_back_whole(tmp_path, ema):
    checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints")
    state = _state(3, ema=ema)
    checkpoints.save(3, state, position={"text": 7}, config=CONFIG)
    checkpoints.close()

    checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints")
    restored, position = checkpoints.restore(_target(_state(ema=ema)))
    _assert_same(restored, state)
    assert position == {"text": 7}
    assert checkpoints.saved_config(3) == CONFIG
    checkpoints.close()


def test_the_latest_and_the_best_are_kept(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=2, best="pairs/recall", best_mode="max")
    for step, recall in [(1, 0.2), (2, 0.9), (3, None), (4, 0.5), (5, None), (6, None)]:
        _save(checkpoints, step)
        checkpoints.record(step, {} if recall is None else {"pairs/recall": recall})
    checkpoints.wait()
    assert checkpoints.steps() == [2, 5, 6]
    assert checkpoints.latest() == 6
    checkpoints.close()


def test_the_smallest_may_be_the_best(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=1, best="loss", best_mode="min")
    for step, loss in [(1, 3.0), (2, 0.5), (3, 0.9)]:
        _save(checkpoints, step)
        checkpoints.record(step, {"loss": loss})
    checkpoints.wait()
    assert checkpoints.steps() == [2, 3]
    checkpoints.close()
    with pytest.raises(ValueError, match="'max' or 'min'"):
        checkpoint.Checkpoints(tmp_path, best_mode="lowest")


def test_row_07_another_config_is_refused_with_the_differences(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    _save(checkpoints, 1)
    checkpoints.wait()
    other = {
        "text": {"mlp_inner": {"kernel": np.zeros((3, 4), np.float32)}},
        "temperature": np.zeros(2),
    }
    with pytest.raises(ValueError, match="is of another config") as error:
        checkpoints.restore(_target(_state(params=other)))
    text = str(error.value)
    assert "temperature: () in the file, (2,) wanted" in text
    assert (
        "text/mlp_inner/kernel (3, 4): missing in the file; the nearest in the file is "
        "text/mlp_in/kernel" in text
    )
    assert "text/mlp_in/kernel (3, 4): in the file, not in the model" in text
    checkpoints.close()


def test_only_ten_differences_are_printed():
    lines = tree_diff.shape_differences({}, {f"layer_{i:02}": (1,) for i in range(13)})
    text = choices.listed("differs:", lines)
    assert text.count("\n") == 11
    assert text.endswith("... and 3 more")


def test_row_06_a_damaged_array_is_named(tmp_path, monkeypatch):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    real = checksums.of

    def damaged(tree):  # one bit of one array, between the save and the checksum of the restore
        return real(
            jax.tree.map_with_path(lambda path, x: _flip(x) if "mlp_in" in str(path) else x, tree)
        )

    _save(checkpoints, 1)
    checkpoints.wait()
    monkeypatch.setattr(checksums, "of", damaged)
    with pytest.raises(
        ValueError, match=r"params is damaged; .* 1 array\(s\) differ:\n  text/mlp_in"
    ):
        checkpoints.restore(_target(_state()))
    checkpoints.close()


def _flip(x):
    words = np.array(x).view(np.uint32)
    words.flat[-1] ^= 1 << 20
    return words.view(np.float32)


def test_row_06_a_flipped_byte_in_any_file_never_loads_silently(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    _save(checkpoints, 1)
    checkpoints.wait()
    state = _state(1)
    files = [p for p in sorted((tmp_path / "1").rglob("*")) if p.is_file() and p.stat().st_size]
    refused = 0
    for path in files:
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0x10]) + whole[middle + 1 :])
        try:
            saved = checkpoint.Checkpoints(tmp_path, read_only=True)
            restored, position = saved.restore(_target(_state()))
        except ValueError as error:
            assert f"checkpoint {tmp_path / '1'}" in str(error)
            refused += 1
        else:
            _assert_same(restored, state)  # the byte was of no consequence
            assert position == {"text": 1}
        path.write_bytes(whole)
    assert refused > 3
    checkpoints.close()


def test_checksums_see_every_bit_and_the_place():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    base = checksums.of({"a": x})["a"]
    for place in np.ndindex(x.shape):
        changed = x.copy().view(np.uint32)
        changed[place] ^= 1
        assert checksums.of({"a": changed.view(np.float32)})["a"] != base
    assert checksums.of({"a": x[:, ::-1].copy()})["a"] != base
    assert checksums.of({"b": np.array([True, False])}) != checksums.of(
        {"b": np.array([False, True])}
    )


def test_row_05_a_full_disk_is_survived(tmp_path, caplog):
    checkpoints = checkpoint.Checkpoints(tmp_path, max_failures=2)
    _save(checkpoints, 1)
    checkpoints.wait()
    with no_large_files(), caplog.at_level(logging.ERROR):
        _save(checkpoints, 2)
        assert not checkpoints.wait()
    assert "CHECKPOINT NOT SAVED: saving step 2" in caplog.text
    assert checkpoints.steps() == [1]
    _wait_until(lambda: not list(tmp_path.glob("*tmp*")))  # the space is free again
    late = tmp_path / "2.orbax-checkpoint-tmp" / "train"  # by a thread of the save that failed
    late.mkdir(parents=True)
    _save(checkpoints, 3)
    assert checkpoints.wait()
    assert checkpoints.steps() == [1, 3]
    assert not late.exists()
    with no_large_files(), pytest.raises(OSError, match="Failure 2 of 2"):
        for step in (4, 5):
            _save(checkpoints, step)
            checkpoints.wait()
    restored, _ = checkpoints.restore(_target(_state()))
    _assert_same(restored, _state(3))


def test_row_01_rubbish_of_an_interrupted_save_is_removed(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    _save(checkpoints, 1)
    checkpoints.close()
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "2.orbax-checkpoint-tmp" / "part").write_bytes(b"x")
    checkpoints = checkpoint.Checkpoints(tmp_path)
    assert checkpoints.steps() == [1]
    _wait_until(lambda: not (tmp_path / "2.orbax-checkpoint-tmp").exists())
    checkpoints.close()


def _wait_until(true, seconds=20):
    """Rubbish is removed in the background."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_relative_directory_is_that_of_now(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = checkpoint.Checkpoints("runs/a/checkpoints")
    _save(checkpoints, 1)
    checkpoints.close()
    checkpoint.save_params("converted", PARAMS)
    monkeypatch.chdir("/")
    _assert_same(checkpoint.load_params(tmp_path / "runs" / "a"), _state(1).params)
    _assert_same(checkpoint.load_params(tmp_path / "converted"), PARAMS)
    assert str(workdir.absolute("gs://bucket/run")) == "gs://bucket/run"


def test_parameters_alone(tmp_path):
    checkpoint.save_params(tmp_path / "converted", PARAMS)
    _assert_same(checkpoint.load_params(tmp_path / "converted"), PARAMS)
    with pytest.raises(ValueError, match="exists"):
        checkpoint.save_params(tmp_path / "converted", PARAMS)
    with pytest.raises(ValueError, match="does not exist"):
        checkpoint.load_params(pathlib.Path("no") / "such")

    checkpoints = checkpoint.Checkpoints(tmp_path / "run" / "checkpoints")
    for step in (1, 2):
        _save(checkpoints, step)
    checkpoints.close()
    loaded = checkpoint.load_params(tmp_path / "run")
    assert all(isinstance(leaf, np.ndarray | np.generic) for leaf in jax.tree.leaves(loaded))
    _assert_same(loaded, _state(2).params)
    _assert_same(checkpoint.load_params(tmp_path / "run", step=1), _state(1).params)
    with pytest.raises(ValueError, match=r"no complete checkpoint of step 5 .* found \[1, 2\]"):
        checkpoint.load_params(tmp_path / "run", step=5)


@pytest.mark.parametrize("keep", [0, -1, True, 1.5])
def test_B5_to_keep_no_checkpoint_is_refused(tmp_path, keep):
    with pytest.raises(ValueError, match=r"checkpoint\.keep must be an integer of at least 1"):
        checkpoint.Checkpoints(tmp_path / "checkpoints", keep=keep)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("part", ["_CHECKPOINT_METADATA", "params", "train/_METADATA", "checksums"])
def test_B5_what_is_left_of_a_deleted_step_is_no_checkpoint(tmp_path, part, caplog):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    for step in (1, 2, 3):
        _save(checkpoints, step)
    checkpoints.close()
    path = tmp_path / "1" / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    checkpoints = checkpoint.Checkpoints(tmp_path)
    assert checkpoints.steps() == [2, 3]
    assert f"{tmp_path / '1'} lacks" in caplog.text
    _save(checkpoints, 4)
    checkpoints.close()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["2", "3", "4"]


def test_B5_a_latest_step_that_lost_a_part_is_damaged_and_not_passed_over(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    for step in (1, 2):
        _save(checkpoints, step)
    checkpoints.close()
    shutil.rmtree(tmp_path / "2" / "train")
    checkpoints = checkpoint.Checkpoints(tmp_path)
    with pytest.raises(ValueError, match="cannot be read, a file is damaged or missing"):
        checkpoints.restore(_target(_state()))
    checkpoints.restore(_target(_state()), 1)  # as allow_fallback does
    _save(checkpoints, 2)
    checkpoints.close()
    restored, _ = checkpoint.Checkpoints(tmp_path).restore(_target(_state()))
    _assert_same(restored, _state(2))


def test_B5_a_step_leaves_the_list_before_its_files_go(tmp_path, monkeypatch):
    """Killed while it deletes, a process leaves no step with half of its files."""
    monkeypatch.setattr(retention.Trash, "_delete", lambda self: None)
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=1)
    for step in (1, 2):
        _save(checkpoints, step)
        checkpoints.wait()
    assert [p.name for p in (tmp_path / "deleted").iterdir()] == ["1"]
    checkpoints.close()
    monkeypatch.undo()
    checkpoint.Checkpoints(tmp_path).close()
    assert not list((tmp_path / "deleted").iterdir())


def test_B1_the_best_of_an_older_version_is_still_known(tmp_path):
    """It was written into the step itself."""
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=1, best="recall")
    for step, recall in [(1, 0.9), (2, 0.1)]:
        _save(checkpoints, step)
        checkpoints.record(step, {"recall": recall})
    checkpoints.close()
    (tmp_path / "metrics.json").unlink()
    (tmp_path / "1" / "metrics").mkdir()
    (tmp_path / "1" / "metrics" / "metrics").write_text('{"recall": 0.9}')
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=1, best="recall")
    _save(checkpoints, 3)
    checkpoints.wait()
    assert checkpoints.steps() == [1, 3]
    checkpoints.close()


def test_D10_the_window_of_gradient_norms_comes_back_or_begins_anew(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    seen = Spikes(window=3).init().replace(window=jnp.array([1.0, 2.0, 3.0]), seen=jnp.int32(5))
    _save(checkpoints, 1)  # before there was a window
    state = _state(2).replace(spikes=seen)
    checkpoints.save(2, state, position={}, config=CONFIG)
    checkpoints.wait()
    target = _target(state)
    restored, _ = checkpoints.restore(target, 2)
    _assert_same(restored, state)
    restored, _ = checkpoints.restore(target, 1)
    _assert_same(restored, _state(1).replace(spikes=Spikes(window=3).init()))
    longer = _state().replace(spikes=Spikes(window=4).init())
    restored, _ = checkpoints.restore(_target(longer), 2)
    _assert_same(restored, _state(2).replace(spikes=longer.spikes))
    restored, _ = checkpoints.restore(_target(_state()), 2)  # it is off now
    _assert_same(restored, _state(2))
    checkpoints.close()
