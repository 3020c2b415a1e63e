"""That the benchmark of a step measures what it says; no timing is asserted."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unified_fm.bench import flops, machine, synthetic, traced
from unified_fm.commands import bench
from unified_fm.config import file

CONFIG = str(pathlib.Path(__file__).parents[1] / "tiny_config.py")


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    monkeypatch.setattr(machine, "SIZES", (256,))


def printed(capsys, *flags):
    assert bench.main([*flags, f"--config={CONFIG}"], "bench") == 0
    return dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())


@pytest.mark.slow
def test_it_reports_step_and_comparison(capsys, tmp_path):
    flags = ["step", "--steps=2", "--compare=optimizer.lr=0.5", f"--trace={tmp_path}"]
    assert bench.main([*flags, f"--config={CONFIG}"], "bench") == 0
    printed_lines = capsys.readouterr().out.splitlines()
    operations = [line.split() for line in printed_lines if line.startswith("   ")]
    assert 0 < len(operations) <= 20 and all(words[1] == "ms" for words in operations)
    lines = dict(line.split(maxsplit=1) for line in printed_lines)
    assert str(tmp_path) in lines["trace"]
    assert lines["compare"].startswith("optimizer.lr=0.5: ")
    assert lines["batches"] == "of the config's sources"
    milliseconds, samples = (float(lines["step"].split()[place]) for place in (0, 2))
    batch = file.load(CONFIG).samples_per_step
    assert samples == pytest.approx(1e3 * batch / milliseconds, rel=0.05)
    assert float(lines["memory"].split()[0]) > 0.05


@pytest.mark.slow
def test_batches_are_drawn_where_there_is_no_source(capsys):
    lines = printed(capsys, "step", "--steps=1", "--config.streams.text.source=jsonl:/no/such.file")
    assert lines["batches"].startswith("synthetic (") and "/no/such.file" in lines["batches"]


def test_the_loader_alone(capsys):
    lines = printed(capsys, "loader", "--batches=2", "--workers=")
    assert float(lines["loader"].split()[0]) > 0
    assert lines["loader"].endswith("by threads")
    assert lines["bytes"].startswith("0.0")  # 8 texts of 16 and 8 pictures of 16 x 16


@pytest.mark.nightly
def test_the_loader_by_threads_and_processes_and_where_its_time_goes(capsys):
    flags = ["--batches=4", "--workers=1,2", "--made-up", "--streams=pairs"]
    assert bench.main(["loader", "--config=xfm_base:chips=1", *flags], "bench") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {" ".join(line.split()[:2]): line.split()[2:] for line in lines}
    for who in ("threads 1", "threads 2", "processes 1", "processes 2"):
        rate, per_cpu, share = rows[who]
        assert float(rate) > 0 and float(per_cpu) > 0 and 0 < float(share.rstrip("%")) < 150
    [where] = [line for line in lines if line.startswith("where")]
    shares = {part: int(share[:-1]) for part, share in re.findall(r"(\w+) (\d+%)", where)}
    assert {"decoding", "warping", "masks", "tokenizer", "other"} <= shares.keys()
    assert shares["decoding"] == max(shares.values()) and 95 <= sum(shares.values()) <= 105
    with pytest.raises(SystemExit) as end:
        bench.main(["loader", "--config=xfm_base", "--streams=pictures"], "bench")
    assert end.value.code == 1
    assert "no stream 'pictures'; there are image, pairs, regions, text" in capsys.readouterr().err


def test_a_wrong_comparison_is_refused_before_anything_is_measured(capsys):
    with pytest.raises(SystemExit) as end:
        bench.main(["step", f"--config={CONFIG}", "--compare=optimizer.lrr=1"], "bench")
    assert end.value.code == 2
    assert "optimizer has no key 'lrr'" in capsys.readouterr().err


def test_drawn_batches_are_such_as_the_pipelines_give():
    settings = file.load("xfm_base:smoke", ["streams.pairs.groups=2", "streams.regions.groups=2"])
    shapes = flops.shapes_of(settings)
    made = synthetic.batches(settings, shapes)
    for name, batch in made.items():
        assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
            k: (v.shape, v.dtype) for k, v in shapes[name].items()
        }
    for name in ("text", "pairs", "regions"):
        check_texts(made[name], words=300, pad=1)
    assert (made["pairs"]["patch_mask"].sum(1) == 6).all()
    regions = made["regions"]
    assert (regions["image_index"] == np.tile(np.arange(4), 2)).all()  # 8 rows, 8 images, 2 groups
    assert (regions["weight"] == 1).all() and not regions["is_image"].any()
    low, high = (regions["box"][:, :2] + s * regions["box"][:, 2:] / 2 for s in (-1, 1))
    assert (low >= 0).all() and (high <= 1).all() and (regions["box"][:, 2:] > 0).all()
    centre = (regions["box"][:, :2] * 4).astype(int)  # the patch of the box's centre is touched
    assert regions["region_mask"][np.arange(8), centre[:, 1] * 4 + centre[:, 0]].all()


def check_texts(batch, words, pad):
    mask, ids = batch["text_mask"], batch["text"]
    assert (np.sort(mask, axis=1)[:, ::-1] == mask).all() and mask[:, :3].all()  # a prefix
    assert ((ids == pad) == ~mask).all() and (ids < words).all() and (ids >= 0).all()
    used = batch["masked_ids"] >= 0
    assert used.any(1).all() and (batch["masked_ids"][~used] == -100).all()
    true = np.take_along_axis(ids, batch["masked_positions"], axis=1)
    assert (true[used] == batch["masked_ids"][used]).all()
    assert (np.take_along_axis(mask, batch["masked_positions"], axis=1)[used]).all()
    assert ((batch["text_masked"] != ids).sum(1) == used.sum(1)).all()


def test_products_of_a_loop_count_as_often_as_it_runs():
    x = jnp.ones((4, 8))
    w = jnp.ones((8, 8))

    def fn(x):
        y, _ = jax.lax.scan(lambda c, _: (jax.nn.relu(c @ w), None), x, None, length=5)
        y = jax.lax.cond(y.sum() > 0, lambda y: y @ w @ w, lambda y: y @ w, y)
        return jnp.einsum("ab,cb->", y, jax.jit(jnp.matmul)(x, w))

    one = 2 * 4 * 8 * 8
    last = 2 * 4 * 8  # what einsum makes of a sum over everything may be any product of this size
    assert traced.flops(jax.make_jaxpr(fn)(x)) == pytest.approx(8 * one, abs=4 * last)
    images, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((4, 4, 3, 5))
    names = ("NHWC", "HWIO", "NHWC")
    conv = jax.make_jaxpr(
        lambda a, b: jax.lax.conv_general_dilated(a, b, (4, 4), "VALID", dimension_numbers=names)
    )(images, kernel)
    assert traced.flops(conv) == 2 * (2 * 2 * 2 * 5) * (4 * 4 * 3)
