"""That the program in PyTorch has the losses of the published one, and ours."""

import dataclasses
import pathlib

import flax.traverse_util
import jax
import numpy as np
import pytest

from unified_fm import joint, setup
from unified_fm.bench import against, flops, synthetic
from unified_fm.commands import bench, golden
from unified_fm.config import file
from unified_fm.convert.table import import_params
from unified_fm.convert.tables.xfm import TABLE
from unified_fm.data import tokenizer

torch = pytest.importorskip("torch")
from unified_fm.bench.published import losses, model, parameters, program  # noqa: E402

pytestmark = pytest.mark.torch
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "xfm_tiny.npz"


def loaded(sizes, params):
    made = model.Model(model.Sizes.of(sizes)).eval()
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    tensors = parameters.converted({path: np.asarray(array) for path, array in flat.items()})
    made.load_state_dict({name: torch.tensor(array) for name, array in tensors.items()})
    return made


def test_losses_are_those_of_ours():
    still = [f"model.{stack}.dropout=0.0" for stack in ("text", "fusion")]
    still += [f"model.{stack}.attention_dropout=0.0" for stack in ("text", "fusion")]
    settings = file.load("xfm_base:smoke", [*still, "model.vision.drop_path=0.0"])
    ready = setup.prepare(settings, tokenizer=tokenizer.load("bytes"))
    batches = synthetic.batches(settings, ready.shapes)
    for name in ("pairs", "regions"):
        batches[name]["negatives_image"] = np.roll(np.arange(8, dtype=np.int32), 1)
        batches[name]["negatives_text"] = np.roll(np.arange(8, dtype=np.int32), 3)
    params, ours = _ours(ready, batches)
    described = against.description(settings, against.Options())
    assert described["training"]["streams"].keys() == ours.keys()
    for attention in ("eager", "sdpa"):
        theirs = loaded(against.sizes(settings, attention), params)
        for name, expected in ours.items():
            with torch.no_grad():
                found = losses.of(theirs, program.prepared(batches[name], "cpu"), list(expected))
            assert found.keys() == expected.keys()
            for key, loss in expected.items():
                assert float(found[key]) == pytest.approx(float(loss), rel=1e-4), (name, key)


def _ours(ready, batches):
    """(parameters, {stream: {objective: loss}}) without dropout."""
    net, streams, key = ready.program.model, ready.program.streams, jax.random.key(0)

    def run(batches):
        params = ready.init_params({})
        found = joint.outputs(net, streams, params, None, batches, key, dropout=False)
        return params, {s: {k: out.loss for k, out in outs.items()} for s, outs in found.items()}

    # Run once: nearly all of its time is the compiler's, which this halves.
    return jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})(batches)


def test_losses_and_gradients_are_the_published_ones():
    with np.load(GOLDEN, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    weights = golden._section(arrays, "params/")
    params = import_params(TABLE, weights, heads=4)
    ours = golden._model(weights, 64, 4, "unrolled")
    settings = file.load("xfm_base:smoke")
    options = {
        name: dict(getattr(ours, name), heads=4, dropout=0.0, attention_dropout=0.0, drop_path=0.0)
        for name in ("text", "vision", "fusion")
    }
    kept = ("vocab_size", "image_size", "patch_size", "projection_dim", "max_positions")
    options |= {name: getattr(ours, name) for name in kept}
    settings = dataclasses.replace(settings, model={**settings.model, **options})
    theirs = loaded(against.sizes(settings), params)
    total, found = 0.0, {}
    for stream, names in golden.OBJECTIVES.items():
        batch = {k: np.asarray(v) for k, v in _inputs(arrays, stream).items()}
        batch = program.prepared(batch, "cpu")
        if "image" in batch:
            batch["image"] = batch["image"].permute(0, 3, 1, 2)  # normalised already
        found |= {f"{stream}/{k}": v for k, v in losses.of(theirs, batch, names).items()}
    total = sum(found.values())
    reference = golden._section(arrays, "outputs/loss/")
    reference["region/bbox"] = reference["region/bbox"] + reference.pop("region/giou")
    for name, value in found.items():
        assert value.item() == pytest.approx(float(reference[name]), rel=1e-5), name
    total.backward()
    blocks, words = "vision_encoder.blocks", "roberta.embeddings.word_embeddings.weight"
    for name, published in (
        ("vision.layer_00.relative_position_bias", f"{blocks}.0.attn.relative_position_bias_table"),
        ("vision.layer_01.self_attn.qkv.weight", f"{blocks}.1.attn.qkv.weight"),
        ("text_embed.word.weight", f"text_encoder.{words}"),
        ("fusion_mlm_head.embedding", f"fusion_encoder.{words}"),
        ("itm_head.out.weight", "itm_head.3.weight"),
    ):
        gradient, expected = theirs.get_parameter(name).grad, arrays[f"grads/{published}"]
        allowed = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected, atol=allowed, err_msg=name)


def _inputs(arrays, stream):
    return golden._batch(golden._section(arrays, f"inputs/{stream}/"))


def test_three_updates_in_the_published_order():
    described = against.description(file.load("xfm_base:smoke"), against.Options())
    training = program.Training(**described["training"])
    assert training.updates == [(["text"], True), (["regions", "image"], False), (["pairs"], True)]


@pytest.mark.nightly  # both programs, compiled and timed
def test_it_alternates_with_ours(capsys):
    config = str(pathlib.Path(__file__).parent / "text_and_images.py")
    flags = ["step", f"--config={config}", "--steps=2", "--synthetic", "--against=torch"]
    assert bench.main(flags, "bench") == 0
    lines = capsys.readouterr().out.splitlines()
    torch_at = next(place for place, line in enumerate(lines) if line.startswith("torch"))
    assert "eager" in lines[torch_at] and lines[-3].endswith("of torch")
    total = flops.total(flops.of_step(file.load(config))).official
    assert f"{total / 1e9:.2f} GFLOP as published" in lines[torch_at + 2]


def test_ours_is_measured_where_it_ends_by_itself(capfd):
    config = str(pathlib.Path(__file__).parent / "text_and_images.py")
    settings = file.load(config)
    batches = synthetic.batches(settings, flops.shapes_of(settings))
    del batches["text"]["masked_ids"]  # as good as any other reason
    with against.published(settings, batches, against.Options()) as started:
        turns = against.Turns(started, 2)
        turns.begin(alone=False)
        assert turns.run() == 0.0 and turns.product_rate() == 0.0
        (line,) = turns.report(1.0, settings)
    assert line.startswith("torch         not measured: ") and "status 1" in line
    assert "KeyError: 'masked_ids'" in capfd.readouterr().err


def test_another_model_is_refused():
    with pytest.raises(ValueError, match=r"config\.model\.text\.norm is 'pre'"):
        against.sizes(file.load("xfm_base:smoke", ["model.text.norm=pre"]))
    with pytest.raises(ValueError, match="groups is 32, it must be 1"):
        against.description(file.load("xfm_base"), against.Options())
