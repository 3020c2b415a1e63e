"""A plan: what it says of devices that are not here agrees with a program that runs."""

import dataclasses
import functools
import json
import math
import pathlib
import re
import subprocess
import sys
import types

import jax
import pytest

from tests import tiny_config
from unified_fm import rules, setup
from unified_fm.commands import plan as command
from unified_fm.config import file, python
from unified_fm.config.settings import Settings
from unified_fm.planning import chips, plan, roofline, text, topologies, traffic, variants

ROOT = pathlib.Path(__file__).parents[2]


def settings(rows=16, **mesh):
    told = python.plain(tiny_config.get_config())
    for stream in told["streams"].values():
        stream["batch_size"] = rows
    made = Settings.of(told | {"mesh": {"data": -1, "fsdp": 4} | mesh})
    return made.replace(rules=made.rules.replace(sharding="fsdp"))


pytestmark = pytest.mark.usefixtures("compile_quickly")


@functools.cache
def planned():
    return plan.make(
        settings(), topologies.parse("cpu:8"), compiler="cpu", say=lambda line: None
    ).plan


@pytest.mark.slow
def test_a_plan_agrees_with_the_program_that_runs():
    """Bytes of the arrays on one device, temporaries and collectives: within 5 %."""
    ready = setup.prepare(settings())
    state = ready.fresh_state({})
    streams = ready.open_streams()
    batches = ready.place(next(streams))
    streams.close()
    compiled = ready.train_step().lower(state, {}, batches).compile()
    here = jax.devices()[0]

    def held(tree):
        shards = [s for leaf in jax.tree.leaves(tree) for s in leaf.addressable_shards]
        return sum(shard.data.nbytes for shard in shards if shard.device == here)

    made, close = planned(), functools.partial(pytest.approx, rel=0.05)
    assert made.params == close(held(state.params))
    assert made.optimizer == close(held(state.opt_state))
    assert made.batch == close(held(batches))
    stats = compiled.memory_analysis()
    assert made.temporaries == close(stats.temp_size_in_bytes)
    assert made.arguments == close(held(state) + held(batches))
    # Counted here by another reader; the tiny model has no loop.
    line = re.compile(rf" = (.*?) ({'|'.join(traffic.KINDS)})(?:-start)?\(")
    received = sum(
        4 * math.prod(int(n) for n in sizes.split(",") if n)
        for shape, _ in line.findall(compiled.as_text())
        for sizes in re.findall(r"[fsu]32\[([\d,]*)\]", shape)
    )
    assert sum(traffic.by_kind(made.collectives).values()) == close(received)

    _, metrics = compiled(state, {}, batches)
    assert metrics["ok"] == 1


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_halved_and_said():
    small = dataclasses.replace(chips.chip("cpu"), memory=planned().total * 0.9, bandwidth=1e9)
    topology = dataclasses.replace(topologies.parse("cpu:8"), chip=small)
    said = []
    made = plan.make(settings(), topology, compiler="cpu", say=said.append)
    assert [each.rows["text"] for each in made.refused] == [(2.0, 0.0)]
    assert made.plan is not None and made.plan.rows["text"] == (1.0, 0.0)
    assert made.plan.total <= 0.95 * small.memory
    assert "are needed of" in text.lines(made)
    assert "does not fit: " in "".join(said)
    # It is read back as it was, and a row of a table tells what was refused.
    config, remat, again = text.read(json.dumps(text.record("tiny", "none", made)))
    assert text.lines(again) == text.lines(made)
    assert text.row(config, remat, again)[-1] == "image 2, text 2"
    far = dataclasses.replace(
        made, refused=[dataclasses.replace(made.refused[0], rows={"image": (8, 0), "text": (8, 0)})]
    )
    steps = f"{8 * made.plan.steps:,} steps (as many rows as configured)"
    assert steps in text.lines(far)  # an eighth of its rows: those between were passed over
    assert [
        len(line.split("|"))
        for line in text.table([json.dumps(text.record("tiny", "none", made))]).splitlines()
    ] == [15] * 3


def test_what_needs_too_much_by_the_refusals_before_is_passed_over():
    """The refusals are those of libtpu for `xfm_base` on v5e:4x4, in GB for pairs on a chip."""

    def refused(rows, needed):
        return plan.Refusal(rows={"pairs": (rows, 0.0)}, text="", seconds=0.0, needed=needed)

    found = {192: 225.61, 96: 115.66, 48: 61.64, 24: 33.51}
    one, two = [refused(192, found[192])], [refused(n, found[n]) for n in (192, 96)]
    for rows in (96, 48, 24):
        assert plan.least_memory(one, rows) <= found[rows]
    for rows in (48, 24):
        assert 0.9 * found[rows] <= plan.least_memory(two, rows) <= found[rows]
    assert plan.least_memory([refused(192, 0.0)], 96) == 0.0  # the compiler has said no number


@pytest.mark.slow
def test_a_batch_far_too_large_is_not_halved_one_by_one():
    """At 4 rows a device, a fifth of what 4 need leaves 2 out; 1 is the smallest, and is tried."""
    larger = settings()
    larger = larger.replace(
        streams={name: s.replace(batch_size=2 * s.batch_size) for name, s in larger.streams.items()}
    )
    small = dataclasses.replace(chips.chip("cpu"), memory=planned().total * 0.2, bandwidth=1e9)
    said = []
    topology = dataclasses.replace(topologies.parse("cpu:8"), chip=small)
    made = plan.make(larger, topology, compiler="cpu", say=said.append)
    assert made.plan is None
    assert [each.rows["text"][0] for each in made.refused] == [4.0, 1.0]
    assert "passed over: 4 rows on each device need" in "\n".join(said)
    config, remat, again = text.read(json.dumps(text.record("tiny", "none", made)))
    cells = text.row(config, remat, again)
    assert (*cells[:2], cells[4]) == ("cpu:8", "tiny", "none") and cells[-1].count(";") == 1
    less = text.lines(made)
    assert "None of these fits. A step needs less memory\n  with --remat=dots" in less
    assert "  with --config.accumulate=4, which makes the batch in 4 parts,\n" in less
    assert text.lines(again) == less


def test_halves_keep_groups_whole():
    made = file.load("xfm_base:chips=4")
    half = variants.halved(made)
    assert half is not None
    assert variants.rows(made, 4)["regions"] == (96, 80)
    assert variants.rows(half, 4) == {
        "text": (128, 0), "image": (48, 0), "pairs": (48, 0), "regions": (48, 40)
    }  # fmt: skip
    smallest = half
    while (smaller := variants.halved(smallest)) is not None:
        smallest = smaller
    assert variants.rows(smallest, 4)["pairs"] == (6, 0)  # 80 images are four times even


def test_what_auto_means_follows_the_topology():
    made = file.load("xfm_base:smoke")
    there = variants.for_platform(made, "cuda", "full").model
    assert (there["layer_loop"], there["attention"], there["remat"]) == ("scan", "einsum", "full")
    assert "attention" not in variants.for_platform(made, "tpu").model
    assert variants.for_platform(made, "cpu").model == made.model


def test_a_teacher_that_is_not_here_is_known_by_its_model_or_its_name():
    made = file.load("ufm_base")
    found = variants.for_platform(made, "tpu").teachers
    assert {name: teacher.model["name"] for name, teacher in found.items()} == {
        "vit": "vit",
        "bert": "bert",
    }
    teachers = {"vit": made.teachers["vit"].replace(path="runs/of_mine")}
    with pytest.raises(ValueError, match=r"config.teachers.vit.config=FILE.py"):
        variants.for_platform(made.replace(teachers=teachers), "tpu")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("v5e:16x16", (256, 1)),
        ("v5p:4x4x4", (64, 1)),
        ("h100:8x4", (32, 4)),
        ("h100:8", (8, 1)),
    ],
)
def test_topologies_by_name(name, found):
    topology = topologies.parse(name)
    assert (topology.count, topology.hosts) == found


def test_devices_that_stand_in_for_gpus_lie_on_the_hosts_of_the_topology():
    devices = jax.devices()[::-1]
    topology = topologies.parse("h100:4x2")
    assert topologies.hosts(devices, topology, "cpu") == [1, 1, 1, 1, 0, 0, 0, 0]
    # A slice is one network, and devices of a GPU's own compiler know their host.
    assert topologies.hosts(devices, topologies.parse("v5e:4x2"), "cpu") == [0] * 8
    real = [types.SimpleNamespace(id=place, process_index=place % 2) for place in range(4)]
    assert topologies.hosts(real, topology, "gpu") == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5:4x4", "'v5p'? Possible: a100, cpu, h100, h200, v4, v5e, v5p, v6e"),
        ("v5e", "after the colon"),
        ("v5e:4x4x4", "v5e:4x4"),
        ("v4:4x4", "v4:4x4x4"),
    ],
)
def test_a_topology_that_is_none_is_refused(name, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        topologies.parse(name)


def test_a_compiler_that_is_missing_is_named_with_its_install_line(monkeypatch, capsys):
    monkeypatch.setattr(topologies, "installed", lambda name: name == "cpu")
    assert topologies.compiler(topologies.parse("v5e:4x4")) == "cpu"
    with pytest.raises(SystemExit) as exit:
        command.main(["--config=xfm_base:smoke", "--topology=v5e:4x4", "--compiler=tpu"], "plan")
    assert exit.value.code == 2
    assert 'pip install --no-deps "libtpu==' in capsys.readouterr().err
    assert "jax-cuda12-plugin==" in topologies.install("gpu")
    with pytest.raises(ValueError, match="possible: auto, gpu, cpu"):
        topologies.compiler(topologies.parse("h100:8x1"), "tpu")


def test_a_roofline_by_hand():
    chip = chips.chip("h100")
    sent = [
        traffic.Collective(kind="all-gather", bytes=8e9, times=1, group=group, origin="", shape="")
        for group in (tuple(range(8)), (0, 8))
    ]
    hosts = [place // 8 for place in range(16)]
    found = roofline.of(chip, flops=98.9e12, moved=33.5e9, collectives=sent, hosts=hosts)
    assert found.compute == pytest.approx(0.1)
    assert found.memory == pytest.approx(0.01)
    # Seven eighths inside a host at 450 GB/s, a half between hosts at 50 GB/s.
    assert found.links == pytest.approx(7e9 / 450e9 + 4e9 / 50e9)
    assert (found.least, found.bound) == (pytest.approx(0.1), "compute")


def test_parts_of_the_memory_are_those_of_the_tree():
    ready = setup.prepare(settings())
    whole = sum(4 * leaf.size for _, leaf in rules.named_leaves(ready.params))
    made = planned()
    assert whole / 4 <= made.params < whole  # split where fsdp=4 divides it
    assert made.parameters == whole / 4


@pytest.mark.slow  # two programs, each in a process of its own
def test_the_command_plans_without_data_and_refuses_what_cannot_be(tmp_path):
    script = "import sys; from unified_fm import cli; sys.exit(cli.main())"
    rows = [f"--config.streams.{name}.batch_size=16" for name in ("image", "text")]

    def run(*arguments):
        command = [sys.executable, "-c", script, "plan", "--config=ufm_base:smoke", *rows]
        return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)

    kept = tmp_path / "plan.json"
    done = run("--topology=cpu:8", "--config.mesh.fsdp=4", f"--json={kept}")
    assert done.returncode == 0, done.stderr
    assert "received by a device in a step: " in done.stdout
    config, _, made = text.read(kept.read_text())
    assert config == "ufm_base:smoke"
    assert made.plan.mesh == {"data": 2, "fsdp": 4, "tensor": 1}
    assert made.plan.teachers > 0
    refused = run("--topology=cpu:8", "--config.mesh.fsdp=3")
    assert refused.returncode == 2
    assert (
        "made: --config.mesh.data=2 --config.mesh.fsdp=4 --config.mesh.tensor=1" in refused.stderr
    )
