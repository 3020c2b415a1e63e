"""A step with scanned layers on eight devices that split them: counted by hand, planned and run.

UFM with four layers, each split over `fsdp`. Its two streams go through the encoder one after the
other, and nothing of a layer is kept for the backward pass.
"""

import collections
import functools
import pathlib

import jax
import pytest

from unified_fm import rules, setup
from unified_fm.bench import synthetic, trace
from unified_fm.config import file
from unified_fm.data import tokenizer as tokenizers
from unified_fm.planning import hlo, plan, topologies, traffic

# Two compilations of ten seconds.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compile_quickly")]
LAYERS, DEVICES, PASSES = 4, 8, 2
CHANGES = [f"model.encoder.layers={LAYERS}", "model.layer_loop=scan", "model.remat=full"]
CHANGES += ["mesh.data=1", f"mesh.fsdp={DEVICES}"]


@functools.cache
def prepared():
    settings = file.load("ufm_base:smoke,joint", CHANGES)
    return setup.prepare(settings, tokenizer=tokenizers.load("bytes"))


@functools.cache
def running():
    """(the compiled step, its state and batches on the devices)."""
    ready = prepared()
    state = ready.fresh_state({})
    batches = ready.place(synthetic.batches(ready.settings, ready.shapes))
    return ready.train_step().lower(state, {}, batches).compile(), state, batches


def layer():
    """{parameter of a layer: (whole array, sharding)}."""
    leaves = rules.named_leaves(prepared().target.params)
    found = {name: leaf for name, leaf in leaves if name.startswith("encoder/layer_00/")}
    assert len(found) == 16 and all("fsdp" in leaf.sharding.spec for leaf in found.values())
    return found


def gathered():
    """Bytes that both passes gather of layers, forwards and once more backwards."""
    whole = sum(leaf.size * 4 for leaf in layer().values())
    # No gradient needs the sum that ends a layer.
    last = layer()["encoder/layer_00/mlp_out/bias"].size * 4
    return PASSES * LAYERS * (whole + whole - last)


def summed():
    """Bytes of the gradients of layers, of both passes."""
    return PASSES * LAYERS * sum(leaf.size * 4 for leaf in layer().values())


def carried(module, name):
    """The shapes that a program's loops over the layers carry, where `name` is in the origin."""
    return [
        collections.Counter(array.sizes for array in each.instruction.arrays)
        for each in hlo.executions(module)
        if each.instruction.opcode == "while"
        and name in each.instruction.op_name
        and "/encoder/while" in each.instruction.op_name
    ]


def test_layers_are_gathered_one_at_a_time():
    """In the loops: nowhere are those of all layers."""
    module = hlo.parse(running()[0].as_text())
    found = traffic.of(module, DEVICES)
    gathers = [e for e in found if e.kind == "all-gather" and "encoder" in e.origin]
    assert {each.times for each in gathers} == {LAYERS}
    assert sum(each.bytes for each in gathers) == gathered()
    wholes = {(LAYERS, *leaf.shape) for leaf in layer().values() if leaf.ndim > 1}
    loops = carried(module, "jvp(")
    assert len(loops) == 2 * PASSES
    for shapes in loops:
        assert not wholes & shapes.keys()


def test_gradients_of_layers_leave_the_loop_in_parts():
    """Summed layer by layer. Compilers for GPUs and TPUs make a reduce-scatter of sum and slice;
    the CPU's has no such operation."""
    module = hlo.parse(running()[0].as_text())
    sums = [
        each
        for each in traffic.of(module, DEVICES)
        if each.kind == "all-reduce" and each.origin.startswith("backward encoder/mlp")
    ]
    assert [(each.times, each.bytes) for each in sums] == [(LAYERS, summed() / PASSES)] * PASSES
    parts = collections.Counter(
        (LAYERS, *leaf.sharding.shard_shape(leaf.shape)) for leaf in layer().values()
    )
    loops = carried(module, "transpose(jvp(")
    assert len(loops) == PASSES
    for shapes in loops:
        assert not parts - shapes


def test_collectives_run_as_often_as_is_counted(tmp_path):
    """By a trace of the step, in which every device says what it runs."""
    compiled, state, batches = running()
    copy = jax.tree.map(lambda leaf: leaf.copy(), state)  # a step takes its state away
    state, metrics = jax.block_until_ready(compiled(copy, {}, batches))
    with jax.profiler.trace(str(tmp_path)):
        jax.block_until_ready(compiled(state, {}, batches))
    assert metrics["ok"] == 1
    [written] = pathlib.Path(tmp_path).rglob("*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(written))
    ran = collections.Counter(name for name, _ in trace._operations(data))
    counted = {
        each.instruction.name: each.times * DEVICES
        for each in hlo.executions(hlo.parse(compiled.as_text()))
        if each.instruction.opcode in traffic.KINDS
    }
    assert {name: ran[name] for name in counted} == counted
    assert LAYERS * DEVICES in counted.values()


def test_a_plan_agrees_with_the_program_that_runs():
    """Made of shapes alone: temporaries and collectives, those of loops as often as they run."""
    made = plan.make(
        prepared().settings, topologies.parse("cpu:8"), compiler="cpu", say=lambda line: None
    ).plan
    compiled, *_ = running()
    close = functools.partial(pytest.approx, rel=0.05)
    assert made.temporaries == close(compiled.memory_analysis().temp_size_in_bytes)
    known = traffic.by_kind(e for e in made.collectives if e.times == LAYERS)
    assert known == {"all-gather": gathered(), "all-reduce": summed()}
