"""Teachers: from where they come, that they stay as they are, and which are refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests import tiny as plainest
from tests import ufm_runs
from tests.convert import test_parity as parity
from tests.models import tiny_ufm as tiny
from tests.models import tiny_xfm
from unified_fm import joint, setup, sharding, step
from unified_fm.checkpoint import store as checkpoint
from unified_fm.config.settings import Teacher
from unified_fm.convert.readers.safetensors_file import write_safetensors
from unified_fm.data import streams as data
from unified_fm.objectives import distill, mim
from unified_fm.teachers import transform as teachers

BERT = {
    "name": "bert",
    "vocab_size": 40,
    "max_positions": 12,
    "text": tiny.LAYERS | {"dropout": 0.5},
}
VIT = {"name": "vit", "image_size": 8, "patch_size": 4, "classes": 5, "vision": tiny.LAYERS}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders with parameters of the two teachers; the BERT's also has a pooler."""
    root, both = tmp_path_factory.mktemp("teachers"), tiny.batches()

    def everything(net, batch):
        return net.targets(batch), net.next_sentence(net(batch).text)

    trees = {
        "bert": tiny.params(tiny.text_teacher(), everything, both["text"], seed=1),
        "vit": tiny.params(tiny.image_teacher(), tiny.targets, both["image"], seed=2),
    }
    for name, tree in trees.items():
        checkpoint.save_params(root / name, tree)
    return root, trees


def config(root, **changes):
    entries = {
        "bert": {"model": BERT, "path": str(root / "bert"), "streams": ["text"]},
        "vit": {"model": VIT, "path": str(root / "vit"), "streams": ["image"]},
    }
    return {name: entry | changes.get(name, {}) for name, entry in entries.items()}


def load(config, batches=None, **options):
    mesh = sharding.make_mesh(data=-1, fsdp=2)
    config = {name: Teacher.of(entry) for name, entry in config.items()}
    made = teachers.build(config)
    batches = batches or tiny.batches()
    return made, teachers.load_params(config, made, batches, mesh, "fsdp", **options)


def test_they_lie_on_the_mesh_with_nothing_they_do_not_teach_with(saved):
    root, trees = saved
    _, params = load(config(root))
    assert {"pooler", "next_sentence_head"} <= set(trees["bert"])
    assert set(params["bert"]) == {"text_embed", "text", "mlm_head"}
    kernel = params["bert"]["text"]["layer_00"]["mlp_in"]["kernel"]
    assert kernel.sharding.spec == jax.sharding.PartitionSpec(None, "fsdp")
    np.testing.assert_array_equal(kernel, trees["bert"]["text"]["layer_00"]["mlp_in"]["kernel"])


def test_targets_are_of_the_students_arrays_without_dropout(saved):
    root, trees = saved
    made, params = load(config(root))
    batches = tiny.batches()
    taught = jax.jit(teachers.make_transform(made), compiler_options=tiny.FAST)(params, batches)
    expected = tiny.apply(tiny.targets, tiny.text_teacher(), trees["bert"], batches["text"])
    np.testing.assert_allclose(taught["text"]["teacher"]["bert"]["mlm"], expected["mlm"], atol=1e-5)
    expected = tiny.apply(tiny.targets, tiny.image_teacher(), trees["vit"], batches["image"])
    assert set(taught["image"]["teacher"]) == {"vit"}
    np.testing.assert_allclose(
        taught["image"]["teacher"]["vit"]["image"], expected["image"], atol=1e-5
    )
    # The student's arrays are as they were.
    for stream, batch in batches.items():
        jax.tree.map(np.testing.assert_array_equal, batch, {k: taught[stream][k] for k in batch})


def program_of(saved, **kw):
    root, _ = saved
    made, params = load(config(root))
    of = {"text": ("bert", "mlm"), "image": ("vit", "image")}
    streams = {
        name: joint.Stream(
            objectives={"distill": distill.Objective(teacher=teacher, of=part)},
            weights={"distill": 1.0},
        )
        for name, (teacher, part) in of.items()
    }
    groups = {name: [name] for name in streams}
    transform = teachers.make_transform(made)
    program = step.Program(
        model=tiny.student(), streams=streams, groups=groups, teachers=transform, **kw
    )
    return program, params


def test_no_gradient_reaches_a_teacher(saved):
    program, params = program_of(saved)
    batches = tiny.batches()
    student = tiny.params(tiny.student(), tiny.everything, batches)

    def loss(teacher_params, student):
        batches_ = program.teachers(teacher_params, batches)
        rest = batches_, jax.random.key(0), None, program.weights(0)
        return sum(
            step._group_loss(program, group, student, None, *rest)[0] for group in program.groups
        )

    both = jax.jit(jax.grad(loss, argnums=(0, 1)), compiler_options=tiny.FAST)
    of_teachers, of_student = both(params, student)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(of_teachers))
    assert np.any(of_student["encoder"]["layer_00"]["mlp_in"]["kernel"])


def test_a_teacher_runs_once_in_a_step_whatever_the_number_of_groups(saved, monkeypatch):
    program, params = program_of(saved)
    batches = tiny.batches()
    student = tiny.params(tiny.student(), tiny.everything, batches)
    calls = []
    transform = teachers.Transform.__call__

    def counted(self, *args):
        calls.append(args)
        return transform(self, *args)

    monkeypatch.setattr(teachers.Transform, "__call__", counted)
    state = step.TrainState(step=0, params=student, opt_state=None)
    rng = jax.random.key(0)
    jax.eval_shape(lambda p, b: step._gradients(program, state, p, b, rng), params, batches)
    assert len(calls) == 1


def test_one_is_shown_no_more_than_what_is_learnt_from_it():
    """X-FM's vision encoder teaches a stream of pairs; its texts and fusion need not be there."""
    xfm = teachers.Teacher(
        model=tiny_xfm.model(), streams=["pairs"], lessons={"pairs": {"image_hidden"}}
    )
    batch = tiny_xfm.make_batches()["pairs"]
    assert set(xfm.shown("pairs", batch)) == {"image"}
    tree = teachers.shapes({"xfm": xfm}, {"pairs": batch})["xfm"]
    assert set(tree) == {"patch_embed", "vision", "temperature"}
    words = dataclasses.replace(xfm, lessons={"pairs": {"mlm"}})
    assert {"text_masked", "masked_positions"} < set(words.shown("pairs", batch))
    # A model that makes targets of its own knows itself what it needs.
    own = dataclasses.replace(xfm, model=plainest.Model())
    assert own.shown("pairs", batch) == batch


def test_what_is_learnt_from_teachers_is_listed_by_teacher_and_stream():
    learnt = {"a": mim.Objective(target="teacher:old"), "b": mim.Objective()}
    kl = {"c": distill.Objective(teacher="new", of="image")}
    streams = {
        name: joint.Stream(objectives=objectives, weights={})
        for name, objectives in {"pairs": learnt, "image": {**learnt, **kl}}.items()
    }
    assert joint.lessons(streams) == {
        "old": {"pairs": {"image_hidden"}, "image": {"image_hidden"}},
        "new": {"image": {"image"}},
    }


@pytest.mark.nightly  # compiles X-FM twice
def test_a_run_of_xfm_on_images_teaches_an_xfm_of_pairs(tmp_path):
    """Masked patches of pairs towards the frozen states of a run that never saw a text."""
    layer = {"layers": 1, "width": 16, "heads": 2, "mlp_width": 32}
    model = {"name": "xfm", "vocab_size": 261, "image_size": 16, "patch_size": 8}
    model |= {"projection_dim": 8, "text": layer, "vision": layer, "fusion": layer}
    patches = {"size": 16, "patch_size": 8, "num_masked": 2}
    image = data.stream("image", "synthetic:image:24", 8, {"pixels": 1.0}, threads=1, **patches)
    learnt = {"imlm": 1.0, "mim": {"target": "teacher:old"}}
    words = {"max_len": 12, "mask_rate": 0.5, "max_masked": 4}
    pairs = data.stream(
        "image_text", "synthetic:pairs:24", 8, learnt, threads=1, **patches, **words
    )

    def settings(streams, **changes):
        groups = {"all": list(streams)}
        return ufm_runs.config(model=model, streams=streams, gradient_groups=groups, **changes)

    folder = tmp_path / "old"
    old = ufm_runs.run(settings({"image": image}, total_steps=2), folder)
    assert {name.split("/")[0] for name in old} == {
        "patch_embed",
        "vision",
        "mim_head",
        "temperature",
    }
    entry = {"path": str(folder), "streams": ["pairs"]}
    both = settings({"pairs": pairs}, teachers={"old": entry}, total_steps=2)
    student = ufm_runs.run(both, tmp_path / "student")
    assert any(name.startswith("fusion/") for name in student)

    ready = setup.prepare(both)
    taught = ready.load_teachers()
    batch = ready.place(next(ready.open_streams()))
    found = ready.program.teachers(taught, batch)["pairs"]["teacher"]["old"]["image_hidden"]
    seen = {"image": batch["pairs"]["image"]}
    expected = ready.program.model.apply({"params": taught["old"]}, seen)
    np.testing.assert_allclose(found, expected.image, atol=1e-5)


@pytest.mark.slow
def test_foreign_weights(tmp_path):
    """`init="bert:FOLDER"` gives the logits of transformers."""
    settings, params, inputs, outputs = parity.read("bert_small")
    write_safetensors(tmp_path / "model.safetensors", params, {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(settings))
    sizes = {"layers": 2, "width": 16, "heads": 2, "mlp_width": 32}
    model = {"name": "bert", "vocab_size": 61, "max_positions": 20, "text": sizes}
    entry = {"model": model, "init": f"bert:{tmp_path}", "streams": ["text"]}
    batch = {
        "text_masked": inputs["input_ids"],
        "text_mask": inputs["attention_mask"].astype(bool),
        "segments": inputs["token_type_ids"],
    }
    made, tree = load({"bert": entry}, {"text": batch})
    taught = teachers.make_transform(made)(tree, {"text": batch})["text"]["teacher"]["bert"]
    np.testing.assert_allclose(taught["mlm_all"], outputs["mlm_logits"], atol=1e-5, rtol=0)


def test_the_model_of_a_run_is_known_from_its_folder(saved, tmp_path):
    root, _ = saved
    (tmp_path / "config.json").write_text(json.dumps({"model": VIT}))
    made = teachers.build({"vit": Teacher(path=str(tmp_path), streams=["image"])})
    assert made["vit"].model == tiny.image_teacher()
    with pytest.raises(ValueError, match=r"teachers.vit has no 'model', and there is no config.js"):
        teachers.build({"vit": Teacher(path=str(root / "vit"), streams=["image"])})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"bert": {"model": BERT | {"vocab_size": 41}}},
            r"word/embedding: \(40, 16\) in the file, \(41, 16\) wanted",
        ),
        (
            {"vit": {"model": VIT | {"image_size": 12}}},
            r"teachers.vit cannot see stream 'image': images are \(8, 8, 3\), the model takes "
            r"\(12, 12, 3\)",
        ),
        (
            {"vit": {"model": VIT | {"patch_size": 2}}},
            r"patch_embed/kernel: \(4, 4, 3, 16\) in the file, \(2, 2, 3, 16\) wanted",
        ),
        (
            {"vit": {"model": VIT | {"vision": tiny.LAYERS | {"width": 24}}}},
            r"class_token: \(1, 1, 16\) in the file, \(1, 1, 24\) wanted",
        ),
        (
            {"bert": {"model": BERT | {"max_positions": 8}}},
            "texts of 9 tokens need 9 position embeddings",
        ),
    ],
)
def test_one_that_does_not_fit_its_checkpoint_or_its_stream(saved, changes, message):
    with pytest.raises(ValueError, match=message):
        load(config(saved[0], **changes))


def test_one_of_fewer_words_than_the_tokenizer(saved):
    with pytest.raises(ValueError, match=r"vocab_size = 40 words, the run's .* has 261"):
        load(config(saved[0]), words=261)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"classes": 7}, "the teacher 'vit' has 5 classes, the student 7"),
        ({"vocab_size": 50}, "the teacher 'bert' has 40 words, the student 50"),
    ],
)
def test_one_that_does_not_fit_the_student(saved, student, message):
    """Found before anything is compiled: when the shapes of the parameters are."""
    program, params = program_of(saved)
    program = dataclasses.replace(program, model=tiny.student(**student))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda p, b: step.init_params(program, p, b), params, tiny.batches())


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"streams": ["text"]},
            "teachers.bert has no 'path'; found streams. A teacher has",
        ),
        ({"model": BERT, "path": "x"}, "teachers.bert has no 'streams'; found model, path"),
        ({"pth": "x"}, "teachers.bert has no key 'pth'; did you mean 'path'"),
        ({"init": "bert:x", "streams": []}, "no 'model', and foreign weights do not say"),
    ],
)
def test_an_entry_that_says_too_little(entry, message):
    with pytest.raises(ValueError, match=message):
        teachers.build({"bert": Teacher.of(entry, "teachers.bert")})


def test_a_stream_that_does_not_exist():
    entry = {"path": "x", "streams": ["words"]}
    with pytest.raises(ValueError, match=r"bert names the stream 'words'; Possible: image"):
        ufm_runs.config(teachers={"bert": entry})
