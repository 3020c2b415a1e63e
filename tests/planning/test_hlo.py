"""A module's text: what runs, how often, what is sent, computed and moved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from unified_fm.planning import hlo, traffic, work

LOOPS = """HloModule jit_step, is_scheduled=true

%inside (p: f32[4,8]) -> f32[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %gathered = f32[32,8]{1,0} all-gather(%p), channel_id=7, replica_groups=[1,8]<=[8], dimensions={0}
}

%body (a: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %a = (s32[], /*index=1*/f32[4,8]{1,0:T(8,128)}) parameter(0)
  %x = f32[4,8]{1,0} get-tuple-element(%a), index=1
  %part = f32[32,8]{1,0} fusion(%x), kind=kLoop, calls=%inside
  %again = f32[32,8]{1,0} fusion(%x), kind=kLoop, calls=%inside
  ROOT %t = (s32[], f32[4,8]{1,0}) tuple(%a, %x)
}

%condition (a: (s32[], f32[4,8])) -> pred[] {
  %a = (s32[], f32[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%a), index=0
  %limit = s32[]{:T(128)} constant(5)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%small (q: f32[2]) -> f32[2] {
  %q = f32[2]{0} parameter(0)
  ROOT %r = f32[2]{0} all-reduce(%q), channel_id=1, replica_groups={}, to_apply=%add
}

%large (q: f32[2]) -> f32[2] {
  %q = f32[2]{0} parameter(0)
  %w = f32[20]{0} broadcast(%q)
  ROOT %r = f32[20]{0} all-reduce(%w), channel_id=2, replica_groups={}, to_apply=%add
}

ENTRY %main (x: f32[4,8]) -> f32[4,8] {
  %x = f32[4,8]{1,0} parameter(0)
  %known = (s32[], f32[4,8]{1,0}) while(%x), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %counted = (s32[], f32[4,8]{1,0}) while(%known), condition=%condition, body=%body
  %chosen = f32[2]{0} conditional(%i, %q, %q), branch_computations={%small, %large}
  %s = (f32[3]{0}, bf16[2,2]{1,0}) all-reduce-start(%y, %z), replica_groups={{0,1},{2,3}}, to_apply=%add
  %g = (f32[2]{0}, f32[16]{0}) all-gather-start(%y), replica_groups={}, dimensions={0}
  ROOT %done = f32[16]{0} all-gather-done(%g)
}
"""  # noqa: E501


def read():
    return hlo.parse(LOOPS)


def test_a_loop_runs_as_often_as_it_says_or_compares_with():
    module = read()
    entry = module.computations["main"]
    assert [hlo.trips(module, entry[name]) for name in ("known", "counted")] == [3, 5]
    times = [e.times for e in hlo.executions(module) if e.instruction.name == "gathered"]
    assert times == [3, 3, 5, 5]


def test_bytes_of_collectives_are_those_of_the_results_of_all_that_run():
    found = traffic.of(read(), 8)
    # Two fusions hold parts of one all-gather of 1,024 bytes: it is counted once, of the loop that
    # runs longest. Of the conditional the larger branch counts.
    assert traffic.by_kind(found) == {
        "all-gather": 5 * 32 * 8 * 4 + 16 * 4,
        "all-reduce": 20 * 4 + 3 * 4 + 4 * 2,
    }
    assert [len(each.group) for each in found] == [8, 8, 2, 8]


@pytest.mark.parametrize(
    ("attributes", "group"),
    [
        ("replica_groups={{4,5,6,7},{0,1,2,3}}, x", (4, 5, 6, 7)),
        ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", (0, 4)),
        ("replica_groups={}, x", tuple(range(8))),
        ("source_target_pairs={{0,0},{1,3},{3,1}}", (1, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}, x", (0, 4)),
    ],
)
def test_a_group_is_read_in_every_notation(attributes, group):
    assert traffic.group(attributes, 8) == group


def test_what_goes_over_the_links():
    common = dict(bytes=800.0, times=1, group=(0, 1, 2, 3), origin="", shape="")
    moved = {k: traffic.Collective(kind=k, **common).moved for k in traffic.KINDS[:5]}
    assert moved == {
        "all-gather": 600,  # three quarters come from others
        "all-reduce": 1200,  # scattered, then gathered
        "reduce-scatter": 2400,  # three parts as large as the result
        "all-to-all": 600,
        "collective-permute": 800,
    }


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("jit(step)/jvp(Model.encode)/text/while/body/closed_call/Layer/self_attn/out/dot_general",
         "forward text/self_attn/out"),
        ("jit(step)/transpose(jvp(Model.encode))/text_embed/word/jit(_take)/scatter-add",
         "backward text_embed/word"),
        ("jit(step)/transpose(jvp(mlm_head))/dot_general", "backward mlm_head"),
        ("jit(step)/transpose(jvp(M))/vision/while/body/rematted_computation/layer_03/mlp_in/dot",
         "recomputed vision/layer/mlp_in"),
        ("jit(step)/reduce_sum", "update reduce_sum"),
        ("", "the compiler"),
    ],
)  # fmt: skip
def test_an_origin_is_the_pass_and_the_part_of_the_model(name, origin):
    assert traffic.origin(name) == origin


def test_gathers_of_a_scan_are_counted_for_each_layer():
    """Five layers of weights, each split over eight devices and gathered where it is used."""
    mesh = jax.make_mesh((8,), ("fsdp",))
    split, whole = NamedSharding(mesh, P(None, "fsdp")), NamedSharding(mesh, P())

    def layer(x, w):
        return jnp.tanh(x @ jax.lax.with_sharding_constraint(w, whole)), None

    def run(x, weights):
        return jax.lax.scan(layer, x, weights)[0]

    x = jax.ShapeDtypeStruct((16, 64), "float32", sharding=NamedSharding(mesh, P("fsdp")))
    weights = jax.ShapeDtypeStruct((5, 64, 64), "float32", sharding=split)
    compiled = jax.jit(run).lower(x, weights).compile()
    module = hlo.parse(compiled.as_text())
    assert traffic.by_kind(traffic.of(module, 8)) == {"all-gather": 5 * 64 * 64 * 4}
    assert work.flops(module) == 5 * 2 * (16 / 8) * 64 * 64


def test_products_of_a_tpu_are_convolutions_of_which_only_what_meets_counts():
    text = """
ENTRY %main (q: f32[4,30,2,16]) -> f32[4,2,30,30] {
  %q = f32[4,30,2,16]{3,2,1,0} parameter(0)
  %k = f32[4,30,2,16]{3,2,1,0} parameter(1)
  %x = f32[4,30,32,1]{3,2,1,0} parameter(2)
  %w = f32[32,2,16,1]{3,2,1,0} parameter(3)
  %h = f32[4,30,2,16]{1,3,2,0} convolution(%x, %w), window={size=1x2 pad=0_0x1_1 rhs_reversal=0x1}, dim_labels=0bf1_i1o0->0b1f
  ROOT %l = f32[4,2,30,30]{2,3,1,0} convolution(%q, %k), window={size=4x2 stride=3x1 lhs_dilate=4x2}, dim_labels=0b1f_0o1i->01bf
}
"""  # noqa: E501
    projected, attended = 2 * 4 * 30 * 32 * (2 * 16), 2 * (4 * 2) * 30 * 30 * 16
    assert work.flops(hlo.parse(text)) == projected + attended


def test_flops_of_a_compiled_product_with_its_gradient():
    def loss(w, x):
        return (jnp.sin(x @ w) @ w.T).sum()

    x, w = np.ones((32, 48), np.float32), np.ones((48, 64), np.float32)
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(w, x).compile()
    product = 2 * 32 * 48 * 64
    # x @ w, its two gradients, and those of the second product, whose value is not needed.
    assert work.flops(hlo.parse(compiled.as_text())) == 5 * product


def test_a_slice_moves_as_much_as_the_slice():
    text = """
%pick (p: f32[12,1000], i: s32[]) -> f32[1,1000] {
  %p = f32[12,1000]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %z = s32[] constant(0)
  ROOT %s = f32[1,1000]{1,0} dynamic-slice(%p, %i, %z), dynamic_slice_sizes={1,1000}
}
%put (p: f32[12,1000], u: f32[1,1000], i: s32[]) -> f32[12,1000] {
  %p = f32[12,1000]{1,0} parameter(0)
  %u = f32[1,1000]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %z = s32[] constant(0)
  ROOT %d = f32[12,1000]{1,0} dynamic-update-slice(%p, %u, %i, %z)
}
ENTRY %main (p: f32[12,1000], i: s32[]) -> f32[12,1000] {
  %p = f32[12,1000]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %s = f32[1,1000]{1,0} fusion(%p, %i), kind=kLoop, calls=%pick
  %fast = f32[1,1000]{1,0:T(8,128)S(1)} copy(%s)
  ROOT %d = f32[12,1000]{1,0} fusion(%p, %fast, %i), kind=kLoop, calls=%put
}
"""
    read, written, copied, index = 4000, 4000, 4000, 4
    # `fast` lies on the chip: writing it and reading it again cost no memory traffic.
    assert work.moved(hlo.parse(text)) == (read + written + index) + copied + (written + index)


def test_a_text_that_is_no_module_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("hello")
