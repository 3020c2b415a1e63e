"""UFM through the loop: gradient masking on one and eight devices, its resume, its telemetry."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny_config, ufm_runs
from tests.models import tiny_ufm as tiny
from unified_fm.checkpoint import diff as tree_diff
from unified_fm.checkpoint import start
from unified_fm.config import chosen, python
from unified_fm.config.settings import Mesh, Settings
from unified_fm.convert.table import flatten
from unified_fm.data import tokenizer as tokenizers

IGM = {"name": "igm", "shared": "encoder/.*", "t0": 1, "t1": 5, "dt": 2}
OWN_ADAM = {"name": "per_task_adam", "shared": "encoder/.*"}
SHARDED = {"mesh": {"data": -1, "fsdp": 2}, "rules": {"sharding": "fsdp"}}


def metrics(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {name: row[name] for row in rows for name in row}, rows


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("merge", [IGM, OWN_ADAM], ids=["igm", "per_task_adam"])
def test_merges_on_one_and_on_eight_devices_and_their_resume(tmp_path, monkeypatch, merge):
    if len(jax.devices()) < 8:
        pytest.skip("needs 8 simulated devices: XLA_FLAGS in tests/conftest.py")
    config = ufm_runs.config(merge=merge, checkpoint={"every": 4}, **SHARDED)
    straight = ufm_runs.run(config, tmp_path / "eight")
    eight, _ = metrics(tmp_path / "eight")

    # Killed after step 4, in the middle of the ramp: the last refresh is still to come.
    ufm_runs.forget_after(tmp_path / "eight", 4)
    resumed = ufm_runs.run(config, tmp_path / "eight")
    assert straight.keys() == resumed.keys()
    for name, value in straight.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)

    ufm_runs.on_devices(monkeypatch, 1)
    single = config.replace(mesh=Mesh(data=1, fsdp=1, tensor=1))
    ufm_runs.run(single, tmp_path / "one")
    one, _ = metrics(tmp_path / "one")
    for name in ("image/classify", "text/mlm", "grad_norm", "grad_norm/text"):
        assert one[name] == pytest.approx(eight[name], rel=2e-3), name


@pytest.mark.slow
def test_telemetry_is_measured_at_its_own_steps(tmp_path):
    """Of the little model, whose groups share nothing: the text's layer stands for an encoder."""
    config = tiny_config.get_config("6").to_dict() | {
        "gradient_groups": {"image": ["image"], "text": ["text"]},
        "merge": IGM | {"shared": "text/.*"},
        "telemetry": {"every": 2, "scope": "layer", "shared": None},
    }
    ufm_runs.run(Settings.of(config), tmp_path)
    _, rows = metrics(tmp_path)
    measured = {row["step"]: row for row in rows if "telemetry/density/text" in row}
    assert list(measured) == [2, 4, 6]
    # The mask changes before the steps of index 1, 3 and 5, to 0, 0.4375 and 0.5 of 16 x 8.
    assert [row["telemetry/density/text"] for row in measured.values()] == [1.0, 0.5625, 0.5]
    assert [row["telemetry/churn/text"] for row in measured.values()] == [0.0, 0.4375, 0.0625]
    assert measured[2]["telemetry/cosine/image/text/text"] == 0
    assert not any("telemetry" in name for row in rows if "lr" in row for name in row)


@pytest.mark.parametrize(
    ("merge", "message"),
    [
        ({"owner": "words"}, r"owner='words' is none of the groups \['image', 'text'\]"),
        ({"t1": 9}, r"ramp ends at step 9, after the run: total_steps=6"),
        ({"final": 0.5}, "has no option 'final'; did you mean 'final_ratio'"),
    ],
)
def test_masks_that_cannot_work_are_refused_at_start(merge, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ufm_runs.config(merge=IGM | merge)


def test_the_ramp_in_fractions_is_that_of_the_run():
    merge = chosen.merge(ufm_runs.config(merge=IGM | {"t0": 0.5, "t1": 1.0, "dt": 1}), 6)
    assert [step for step in range(9) if merge.refresh.is_due(step)] == [3, 4, 5, 6]


def test_image_and_text_may_change_roles():
    swapped = chosen.merge(ufm_runs.config(merge=IGM | {"owner": "image"}), 6)
    kernel = {"encoder": {"kernel": np.ones((2, 2), np.float32)}}
    state = swapped.init(kernel)
    image, text = ({"encoder": {"kernel": np.full((2, 2), x, np.float32)}} for x in (1.0, 5.0))
    for _ in range(2):  # beyond the warm-up: the image owns every entry
        merged, state = swapped.update({"image": image, "text": text}, state)
    np.testing.assert_array_equal(merged["encoder"]["kernel"], image["encoder"]["kernel"])


def test_telemetry_of_a_wrong_scope_is_refused():
    with pytest.raises(ValueError, match=r"telemetry.scope is .* or 'tensor', found 'block'"):
        ufm_runs.config(telemetry={"every": 1, "scope": "block"})


def test_masked_words_of_the_stream():
    """UFM section 8, test 10, on what the run itself reads."""
    from unified_fm.data.streams import Streams

    tokenizer = tokenizers.load("bytes")
    streams = Streams(ufm_runs.config().plain()["streams"], seed=0, tokenizer=tokenizer)
    chosen = real = 0
    for _ in range(40):
        batch = next(streams)["text"]
        used = batch["masked_ids"] != -100
        at = np.take_along_axis(batch["text"], batch["masked_positions"], axis=1)
        assert (at[used] == batch["masked_ids"][used]).all()
        assert not tokenizer.is_special[batch["masked_ids"][used]].any()
        untouched = np.ones_like(batch["text_mask"])
        rows = np.nonzero(used)[0]
        untouched[rows, batch["masked_positions"][used]] = False
        np.testing.assert_array_equal(batch["text"][untouched], batch["text_masked"][untouched])
        chosen, real = chosen + used.sum(), real + batch["text_mask"].sum()
    streams.close()
    assert chosen / real == pytest.approx(0.15, abs=0.04)  # whole words, at most 3 of 16 bytes


@pytest.mark.parametrize("name", ["ufm_base", "ufm_quickstart"])
def test_A2_teachers_stand_beside_the_labels_at_temperature_1(name):
    streams = python.read(f"configs/{name}.py")["streams"]
    for stream, label in (("image", "classify"), ("text", "mlm")):
        objectives = streams[stream]["objectives"]
        given = objectives[label]
        assert (given["weight"] if hasattr(given, "keys") else given) == 1.0
        assert objectives["distill"]["weight"] == 1.0
        assert objectives["distill"].get("temperature", 1.0) == 1.0


def test_a_student_starts_from_its_image_teacher():
    """`init.rename`: layers of a ViT become the shared encoder; the text side stays fresh."""
    both, teacher = tiny.batches(), tiny.image_teacher()
    found = tiny.params(teacher, tiny.targets, both["image"], seed=1)
    rename = [("vision/(layer_.*|norm/.*)", r"encoder/\1")]
    fresh = jax.tree.map(jnp.asarray, tiny.params(tiny.student(), tiny.everything, both))
    allow = ("text_embed/.*", "mlm_head/.*")
    arrays, wanted = flatten(found), tree_diff.shapes(fresh)
    fitted = functools.partial(start.fitted, arrays, wanted, rename=rename)
    tree = start.placed(fresh, fitted(allow=allow).arrays)
    ours = tiny.apply(tiny.targets, tiny.student(), tree, both["image"])
    expected = tiny.apply(tiny.targets, teacher, found, both["image"])
    np.testing.assert_array_equal(ours["image"], expected["image"])
    np.testing.assert_array_equal(
        tree["text_embed"]["word"]["embedding"], fresh["text_embed"]["word"]["embedding"]
    )
    with pytest.raises(ValueError, match=r"mlm_head/bias .*missing in the file"):
        fitted(allow=("text_embed/.*",))
