"""Compares our X-FM with recorded values of the published system.

    unified-fm golden tests/golden/xfm_tiny.npz
    unified-fm golden tests/golden/xfm_tiny.npz --layer_loop=scan --devices=8 --unpad=0.8

The file holds weights, inputs, fixed masks and negatives, and what the published program made of
them: hidden states, every loss, and the gradient of the summed losses for every parameter. Sizes
come from the file. Prints the largest difference of each, beside what is allowed, and exits with
status 1 if one is beyond it.
"""

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from unified_fm import constraints, placement, sharding
from unified_fm import joint as passes
from unified_fm.convert.rows import Report
from unified_fm.convert.table import export_params, import_params
from unified_fm.convert.tables.xfm import TABLE
from unified_fm.models.config import CHOICES
from unified_fm.models.xfm import Model
from unified_fm.plugins import build

HIDDEN_TOLERANCE = 1e-5  # absolute
LOSS_TOLERANCE = 1e-5  # relative
GRADIENT_TOLERANCE = 1e-4  # of the largest entry of the reference
GRADIENT_NOISE = 1e-7  # absolute; key biases have rounding noise where mathematics says 0

OBJECTIVES = {
    "text": ("mlm",),
    "pair": ("itc", "itm", "imlm", "mim"),
    "image": ("mim",),
    "region": ("itc", "itm", "imlm", "bbox"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """One compared quantity: its largest difference, in the unit in which `allowed` is."""

    kind: str
    name: str
    difference: float
    allowed: float

    @property
    def passed(self) -> bool:
        """False for NaN, too."""
        return self.difference <= self.allowed


def check(
    path: str,
    *,
    joint: bool = True,
    layer_loop: str = "auto",
    unpad: float = 1.0,
    devices: int = 1,
) -> list[Line]:
    """Runs the model and all objectives on a golden file and compares.

    Args:
        path: of the file.
        joint: let what can be joined go through the encoders together.
        layer_loop, unpad: of the encoders of texts, see `EncoderConfig`.
        devices: over which rows (with some of weight 0, so that they are even) and parameters are
            split.

    Raises:
        ConversionError: the weights do not fit the table of X-FM checkpoints.
        KeyError: the file lacks something that a golden file has.
    """
    # One small step, run once: on CPU nearly all of its time is LLVM's, which this halves.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    with np.load(path, allow_pickle=False) as file:
        golden = {name: file[name] for name in file.files}
    weights = _section(golden, "params/")
    heads = json.loads(str(golden["config"]))["heads"]
    params = import_params(TABLE, weights, heads=heads)
    sizes = weights, golden["inputs/pair/image"].shape[2], heads, layer_loop
    model = _model(*sizes, unpad)
    padded = _model(*sizes, 1.0)  # the hidden states of the file are of padding, too
    batches = {name: _batch(_section(golden, f"inputs/{name}/")) for name in OBJECTIVES}

    where = placement.NOWHERE
    if devices > 1:
        grid = np.reshape(jax.devices()[:devices], (1, devices, 1))  # all of them along "fsdp"
        mesh = jax.sharding.Mesh(grid, sharding.AXES)
        where = constraints.placement(mesh, params, "fsdp")
        params = jax.device_put(params, sharding.params_shardings(mesh, params, "fsdp"))
        even = {name: _even(batch, devices) for name, batch in batches.items()}
        batches = sharding.global_batches(mesh, even)

    def loss(params, batches):
        with placement.use(where):
            params = where.params("", params)
            losses = _losses(model, params, batches, joint)
            outputs = padded.apply({"params": params}, batches, method=_outputs)
        return sum(losses.values()), (losses, outputs)

    # "highest": on a GPU or TPU the default products are not float32.
    with jax.default_matmul_precision("highest"):
        run = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=options)
        (total, (losses, outputs)), gradients = run(params, batches)
    return [
        *_compare_outputs(outputs, golden),
        *_compare_losses(losses | {"total": total}, _section(golden, "outputs/loss/")),
        *_compare_gradients(gradients, _section(golden, "grads/")),
    ]


def table(lines: list[Line]) -> str:
    """The comparison as text, one line per quantity."""
    width = max(len(line.name) for line in lines)
    rows = [f"{'kind':8}  {'name':{width}}  difference  allowed"]
    for line in lines:
        verdict = "" if line.passed else "  BEYOND"
        rows.append(
            f"{line.kind:8}  {line.name:{width}}  {line.difference:10.2e}  "
            f"{line.allowed:7.1e}{verdict}"
        )
    failed = sum(not line.passed for line in lines)
    rows.append(f"{len(lines)} compared, {failed} beyond what is allowed")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Reads the command line, compares and prints; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="a golden file (.npz)")
    parser.add_argument("--separate", action="store_true", help="a pass for each stream and view")
    parser.add_argument("--layer_loop", choices=CHOICES["layer_loop"], default="auto")
    parser.add_argument("--unpad", type=float, default=1.0, help="of the texts' encoders")
    parser.add_argument("--devices", type=int, default=1, help="simulated where there are fewer")
    given = parser.parse_args(arguments)
    if given.devices > 1:  # of CPUs alone, and ignored where they are in use already
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", given.devices)
    options = {name: vars(given)[name] for name in ("layer_loop", "unpad", "devices")}
    lines = check(given.file, joint=not given.separate, **options)
    print(table(lines))
    return 0 if all(line.passed for line in lines) else 1


def _model(
    weights: Mapping[str, np.ndarray], image_size: int, heads: int, loop: str, unpad: float = 1.0
) -> Model:
    """A model of the sizes that the weights have."""
    text = "text_encoder.roberta.embeddings."
    vocabulary, _ = weights[text + "word_embeddings.weight"].shape
    return Model(
        vocab_size=vocabulary,
        layer_loop=loop,
        image_size=image_size,
        patch_size=weights["vision_encoder.patch_embed.proj.weight"].shape[-1],
        projection_dim=len(weights["text_proj.bias"]),
        max_positions=len(weights[text + "position_embeddings.weight"]),
        token_types=len(weights[text + "token_type_embeddings.weight"]),
        text=_sizes(weights, "text_encoder.roberta.encoder.layer.", "intermediate.dense", heads)
        | {"unpad": unpad},
        vision=_sizes(weights, "vision_encoder.blocks.", "mlp.fc1", heads),
        fusion=_sizes(weights, "fusion_encoder.roberta.encoder.layer.", "intermediate.dense", heads)
        | {"unpad": unpad},
    )


def _sizes(weights, prefix, mlp, heads):
    mlp_width, width = weights[f"{prefix}0.{mlp}.weight"].shape
    layers = {name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)}
    return {"layers": len(layers), "width": width, "heads": heads, "mlp_width": mlp_width}


def _batch(inputs: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """A batch in our names and layouts."""
    ours = {
        "text_ids": "text",
        "text_ids_masked": "text_masked",
        "masked_pos": "masked_positions",
        "idx_to_group_img": "image_index",
        "target_bbox": "box",
        "image_neg_idx": "negatives_image",
        "text_neg_idx": "negatives_text",
    }
    batch = {ours.get(name, name): value for name, value in inputs.items()}
    for name, renamed in (("text_atts", "text_mask"), ("patch_mask", "patch_mask")):
        if name in batch:
            batch[renamed] = batch.pop(name).astype(bool)
    if "image" in batch:
        batch["image"] = batch["image"].transpose(0, 2, 3, 1)
    if "image_atts" in batch:
        batch["region_mask"] = batch.pop("image_atts")[:, 1:].astype(bool)
    if "is_image" in batch:
        batch["is_image"] = batch["is_image"].astype(bool)
    return jax.tree.map(jnp.asarray, batch)


def _even(batch: Mapping[str, jax.Array], devices: int) -> dict[str, jax.Array]:
    """The batch with rows of weight 0 behind, for each device as many."""
    rows = len(batch["text"] if "text" in batch else batch["image"])

    def more(x: jax.Array) -> jax.Array:
        return jnp.pad(x, [(0, -len(x) % devices), *[(0, 0)] * (x.ndim - 1)], mode="edge")

    even = {name: more(x) for name, x in batch.items()}
    weight = jnp.arange(rows - rows % -devices) < rows
    return even | {"weight": weight.astype(jnp.float32)}


def _losses(model, params, batches, joint):
    """Losses under the names of the file."""
    streams = {
        name: passes.Stream(
            objectives={key: build("objectives", key) for key in keys},
            weights=dict.fromkeys(keys, 1.0),
        )
        for name, keys in OBJECTIVES.items()
    }
    key = jax.random.key(0)  # negatives are given, and nothing is dropped
    found = passes.outputs(model, streams, params, None, batches, key, dropout=False, joint=joint)
    losses = {f"{name}/{key}": out.loss for name in found for key, out in found[name].items()}
    parts = found["region"]["bbox"].parts
    return losses | {"region/bbox": parts["l1"][0], "region/giou": parts["giou"][0]}


def _outputs(net, batches):
    """Hidden states, features and logits under the names of the file."""
    views = {stream: net(batch) for stream, batch in batches.items()}
    pair, region = views["pair"], views["region"]
    fused = _fuse(net, pair, batches["pair"], "row")
    image = region.image[batches["region"]["image_index"]]
    outputs = {
        "pair/image_embeds": pair.image,
        "pair/text_embeds": pair.text,
        "pair/image_feat": net.image_feature(pair),
        "pair/text_feat": net.text_feature(pair),
        "pair/cross_embeds": fused,
        "pair/itm_logits": net.itm_head(fused[:, 0]),
        "region/image_embeds": jnp.concatenate([region.pooled[:, None], image[:, 1:]], axis=1),
        "region/image_embeds_fullatts": image,
        "region/bbox": net.box_head(_fuse(net, region, batches["region"], "image")[:, 0]),
    }
    return outputs


def _fuse(net, views, batch, view):
    memory = views.image_memory
    return net.fuse(text=views.text, text_mask=batch["text_mask"], memory=memory, view=view)


def _compare_outputs(ours, golden):
    reference = _section(golden, "outputs/")
    for name in sorted(name for name in reference if not name.startswith("loss/")):
        found = np.asarray(ours[name])[: len(reference[name])]
        difference = _largest(found - reference[name])
        yield Line(kind="output", name=name, difference=difference, allowed=HIDDEN_TOLERANCE)


def _compare_losses(ours, reference):
    for name in sorted(reference):
        difference = abs(float(ours[name]) - float(reference[name])) / abs(float(reference[name]))
        yield Line(kind="loss", name=name, difference=difference, allowed=LOSS_TOLERANCE)


def _compare_gradients(gradients, reference):
    """Every parameter of theirs, and every one of ours that has no gradient in the file."""
    report = Report()
    ours = export_params(TABLE, gradients, report=report)
    for name in sorted(reference):
        largest = _largest(reference[name])
        yield Line(
            kind="gradient",
            name=name,
            difference=_largest(ours[name] - reference[name]) if name in ours else np.inf,
            allowed=GRADIENT_TOLERANCE * largest + GRADIENT_NOISE,
        )
    # Copies of a tied matrix and what the export makes up have no gradient of their own.
    for name in sorted(set(ours) - set(reference) - {*report.tied, *report.filled}):
        yield Line(kind="gradient", name=name, difference=_largest(ours[name]), allowed=0.0)


def _largest(array) -> float:
    return float(np.abs(array).max())


def _section(arrays, prefix):
    return {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}
