"""The methods of a loaded model, against the model itself and against the evaluators."""

import threading

import jax
import numpy as np
import pytest

import unified_fm
from tests.inference import runs
from unified_fm import queries, setup, step
from unified_fm.checkpoint import store
from unified_fm.config.settings import Settings
from unified_fm.evaluators import grounding, imlm
from unified_fm.inference import programs
from unified_fm.inference.items import BadItem
from unified_fm.inference.results import Box

IMAGES = [runs.picture(name) for name in runs.COLOURS]
TEXTS = [f"a {name} square" for name in runs.COLOURS]


@pytest.fixture(scope="module")
def asked(workdir):
    """`ask(fn)` -> fn(net, batch) of the pictures and their texts, through the evaluators' reader;
    and what evaluators need to run."""
    settings = Settings.of({**_config(workdir), "teachers": {}})
    net = setup.prepare(settings).program.model
    apply, params = step.make_apply(net), store.load_params(workdir)
    held = {
        "source": f"jsonl:{workdir.parent}/data/records.jsonl",
        "options": {"size": runs.SIZE, "patch_size": 8, "max_len": 12},
        "tokenizer": setup.prepare(settings).tokenizer,
        "batch_size": 8,
    }
    arrays = grounding.Evaluator(**held).load().arrays
    batch = {name: arrays[name][:4] for name in ("image", "text", "text_mask")}
    return (lambda fn: np.asarray(apply(fn, params, batch))), apply, params, held


def _config(workdir):
    from unified_fm.config import saved

    return saved.read(workdir, ())


def _image_feature(net, batch):
    return net.image_feature(net({"image": batch["image"]}))


def _text_feature(net, batch):
    return net.text_feature(net({"text": batch["text"], "text_mask": batch["text_mask"]}))


def _scaled_cosines(net, batch):
    return net.similarity(net(batch))


def _match(net, batch):
    views = net(batch)
    given = {"text": views.text, "text_mask": batch["text_mask"], "memory": views.image_memory}
    return jax.nn.softmax(net.itm_head(net.fuse(**given)[:, 0]))[:, 1]


def test_features_are_those_of_the_model(model, asked):
    ask = asked[0]
    np.testing.assert_allclose(model.encode_image(IMAGES), ask(_image_feature), atol=1e-5)
    np.testing.assert_allclose(model.encode_text(TEXTS), ask(_text_feature), atol=1e-5)
    cosines = ask(_image_feature) @ ask(_text_feature).T
    np.testing.assert_allclose(model.similarity(IMAGES, TEXTS), cosines, atol=1e-5)


def test_the_summary_of_the_encoder_is_not_projected(model):
    features = model.encode_image(IMAGES, project=False, normalize=False)
    assert features.shape == (4, 16)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(model.encode_image(IMAGES, project=False), unit, atol=1e-6)
    assert model.encode_text(TEXTS, project=False).shape == (4, 16)


def test_one_item_gives_one_result_and_none_gives_none(model):
    several = model.encode_image(IMAGES)
    np.testing.assert_allclose(model.encode_image(IMAGES[1]), several[1], atol=1e-5)
    assert model.encode_image([]).shape == (0, 8)
    assert model.encode_text([], project=False).shape == (0, 16)
    assert model.similarity(IMAGES[0], TEXTS).shape == (4,)
    assert isinstance(model.match(IMAGES[0], TEXTS[0]), float)
    assert model.match([], []).shape == (0,)
    assert model.locate([], []) == model.fill_mask([]) == model.search([], []) == []


def test_matching_is_that_of_the_model_whatever_is_asked_with_it(model, asked):
    expected = asked[0](_match)
    np.testing.assert_allclose(model.match(IMAGES, TEXTS), expected, atol=1e-5)
    alone = [model.match(i, t) for i, t in zip(IMAGES, TEXTS, strict=True)]
    np.testing.assert_allclose(alone, expected, atol=1e-5)
    longer = [*TEXTS, "a square is it left right a square"]  # another length beside them
    np.testing.assert_allclose(model.match(IMAGES[0], longer)[0], expected[0], atol=1e-5)
    twice = model.match([*IMAGES, *IMAGES], [*TEXTS, *TEXTS])
    np.testing.assert_allclose(twice, [*expected, *expected], atol=1e-5)


def test_boxes_are_those_of_the_evaluator_in_pixels_of_the_image(model, asked):
    _, apply, params, held = asked
    evaluator = grounding.Evaluator(**held)
    list(evaluator.run(apply, params))
    found = model.locate(IMAGES, TEXTS)
    for box, example in zip(found, evaluator.examples[:4], strict=True):
        cx, cy, w, h = example.predicted * [30, 20, 30, 20]  # pictures are 20 x 30
        corners = np.clip([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 0, [30, 20, 30, 20])
        np.testing.assert_allclose(box[:4], corners, atol=1e-3)
    scores = [box.score for box in found]
    np.testing.assert_allclose(scores, model.match(IMAGES, TEXTS), atol=1e-5)
    assert isinstance(model.locate(IMAGES[0], TEXTS[0]), Box)


def test_masked_words_are_those_of_the_evaluator(model, asked):
    _, apply, params, held = asked
    evaluator = imlm.Evaluator(**held)
    list(evaluator.run(apply, params))
    texts = [f"a [MASK] {text.split()[2]}" for text in TEXTS]
    found = model.fill_mask(texts, IMAGES)
    for [words], example in zip(found, evaluator.examples[:4], strict=True):
        # The evaluator counts special tokens among its five guesses, the user does not want them.
        theirs = [(word, share) for word, share in example.guesses if word]
        assert [word for word, _ in words][: len(theirs)] == [word for word, _ in theirs]
        np.testing.assert_allclose(
            [share for _, share in words][: len(theirs)], [x for _, x in theirs], atol=1e-5
        )


def test_masks_of_a_text_alone_each_have_their_words(model):
    both = model.fill_mask("a [MASK] square is <mask>", k=3)
    assert [len(words) for words in both] == [3, 3]
    assert model.fill_mask(["a <mask> square is [MASK]"], k=3) == [both]
    shares = [share for _, share in both[0]]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1


def test_there_are_no_fewer_words_than_one_and_no_more_than_there_are(model):
    for k in (0, -1):
        with pytest.raises(ValueError, match=f"k is {k}; at least 1"):
            model.fill_mask("a [MASK] square", k=k)
    [words] = model.fill_mask("a [MASK] square", k=1000)
    tokenizer = model._parts.tokenizer
    assert len(words) == (~tokenizer.is_special).sum() > 5
    assert not {word for word, _ in words} & {"[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"}


def test_search_orders_by_cosine_and_again_by_matching(model):
    cosines = model.similarity(IMAGES, TEXTS)
    hits = model.search(TEXTS, IMAGES, k=4)
    for column, own in enumerate(hits):
        order = np.argsort(-cosines[:, column], kind="stable")
        assert [hit.index for hit in own] == order.tolist()
        np.testing.assert_allclose([hit.score for hit in own], cosines[order, column], atol=1e-5)
    ready = model.search(TEXTS, model.encode_image(IMAGES), k=4)
    assert [[hit.index for hit in own] for own in ready] == [
        [hit.index for hit in own] for own in hits
    ]
    [again] = model.search(TEXTS[:1], IMAGES, k=2, rerank=4)
    matches = model.match(IMAGES, TEXTS[0])
    assert [hit.index for hit in again] == np.argsort(-matches, kind="stable")[:2].tolist()
    np.testing.assert_allclose(again[0].score, matches.max(), atol=1e-5)
    assert model.search(IMAGES[0], TEXTS, k=1)[0].index == cosines[0].argmax()


def test_search_refuses_what_cannot_be_ranked_again(model):
    with pytest.raises(ValueError, match="the gallery is features"):
        model.search(TEXTS, model.encode_image(IMAGES), rerank=2)
    with pytest.raises(ValueError, match="the gallery is texts, as the queries are"):
        model.search(TEXTS, TEXTS, rerank=2)
    with pytest.raises(ValueError, match="k is 0"):
        model.search(TEXTS, IMAGES, k=0)
    with pytest.raises(ValueError, match="rerank is -1"):
        model.search(TEXTS, IMAGES, rerank=-1)


@pytest.mark.parametrize("queries", [TEXTS, IMAGES])
def test_a_gallery_of_another_width_is_refused(model, queries):
    own = model.encode_image(IMAGES, project=False)
    with pytest.raises(ValueError, match=r"features of 16 numbers.*queries have 8: .*projected"):
        model.search(queries, own)


def test_classes_by_their_texts_are_normalised_before_and_after_the_mean(model, asked):
    labels, templates = ["red", "blue"], ("a {} square", "it is {}")
    image = model.encode_image(IMAGES[0])
    means = []
    for label in labels:
        each = model.encode_text([template.format(label) for template in templates])
        mean = each.mean(axis=0)
        means.append(mean / np.linalg.norm(mean))
    scale = asked[0](_scaled_cosines)[0, 0] / model.similarity(IMAGES[0], TEXTS[0])
    powers = np.exp(scale * (np.stack(means) @ image))
    expected = dict(zip(labels, powers / powers.sum(), strict=True))
    found = model.classify(IMAGES[0], labels, templates=templates)
    assert [label for label, _ in found] == sorted(labels, key=expected.get, reverse=True)
    np.testing.assert_allclose(
        [x for _, x in found], [expected[label] for label, _ in found], rtol=1e-4
    )


def test_any_path_has_a_class_by_texts_as_it_has_a_match(model, tmp_path):
    for name in ("red.jfif", "red"):
        (tmp_path / name).write_bytes(runs.png(IMAGES[0]))
        found = model.classify(str(tmp_path / name), ["red", "blue"])
        assert found == model.classify(IMAGES[0], ["red", "blue"])
    with pytest.raises(BadItem, match=r"items\[0\] \('a red square'\): missing image"):
        model.classify(TEXTS, ["red", "blue"])


def test_the_best_classes_are_ordered_again_by_the_matching_head(model):
    labels, templates = [*runs.COLOURS], ("a {} square",)
    plain = model.classify(IMAGES[:2], labels, templates=templates)
    found = model.classify(IMAGES[:2], labels, templates=templates, rerank=3)
    for image, before, after in zip(IMAGES[:2], plain, found, strict=True):
        best = [label for label, _ in before[:3]]
        match = dict(zip(best, model.match(image, [f"a {x} square" for x in best]), strict=True))
        assert [label for label, _ in after[:3]] == sorted(best, key=match.get, reverse=True)
        assert after[3] == before[3]  # and the best share what they had together
        assert sum(x for _, x in after) == pytest.approx(1)
    with pytest.raises(ValueError, match="rerank is 1; 0, or at least the 2 best"):
        model.classify(IMAGES[0], labels, rerank=1)


def test_a_bad_item_is_named_or_skipped(model):
    given = [IMAGES[0], "missing.png", IMAGES[2]]
    with pytest.raises(BadItem, match=r"images\[1\] \('missing.png'\): missing image"):
        model.match(given, TEXTS[0])
    found = model.match(given, TEXTS[0], on_error="skip")
    assert found[1] is None
    np.testing.assert_allclose(found[::2], model.match(given[::2], TEXTS[0]), atol=1e-5)
    assert [box is None for box in model.locate(given, "a", on_error="skip")] == [0, 1, 0]
    with pytest.raises(BadItem, match=r"texts\[1\] \(' '\): empty text"):
        model.encode_text(["a", " "])
    hits = model.search("a red square", given, on_error="skip")
    assert sorted(hit.index for hit in hits) == [0, 2]
    words = model.fill_mask(["[MASK]", "none"], on_error="skip")
    assert len(words[0]) == 1 and words[1] is None


@pytest.fixture
def compiled():
    """A list that grows with every program that is compiled."""
    counted = []

    def count(event, duration, **more):
        if event == "/jax/core/compile/backend_compile_duration":
            counted.append(event)

    jax.monitoring.register_event_duration_secs_listener(count)
    yield counted
    jax.monitoring.unregister_event_duration_listener(count)


def test_programs_are_few_and_shapes_repeat(model, compiled):
    short, long = "a square", "a square " * 8  # 16 and 20 tokens
    for many in range(1, 10):
        model.encode_text([short, long] * many, project=False)
        model.encode_text([short] * many, project=False)
    # Batches of 1, 2, 4 rows, and two lengths.
    assert 0 < len(compiled) <= 6
    before = len(compiled)
    model.encode_text([long, short, short] * 5, project=False)
    assert len(compiled) == before


def test_programs_of_texts_over_images_are_few(model, compiled):
    pictures = [image.copy() for image in IMAGES * 3]
    for many in range(1, 10):
        model.match(IMAGES[0], ["a square"] * many)
        model.match(pictures[:many], "a square")
        model.match(pictures[:many] * 2, ["a square"] * 2 * many)
    # Of images 1, 2, 4; of texts 1, 2, 4 over one image, and as many as images over several.
    assert len(compiled) <= 3 + 5
    before = len(compiled)
    model.match(pictures[:7], "a square")
    assert len(compiled) == before


@pytest.fixture
def shapes(model, monkeypatch):
    """{query: the shapes that it is asked in}, each a program, with 8 rows and 3 lengths at most.

    Nothing is compiled: zeros answer.
    """
    asked = {}

    def answer(fn, params, batch):
        found = tuple((name, np.shape(array)) for name, array in sorted(batch.items()))
        asked.setdefault(fn.__name__, set()).add(found)
        if fn is queries.image_memory:
            return np.zeros(len(batch["image"]))
        rows = len(batch.get("image", batch.get("text_mask")))
        sizes = {"feature": (8,), "margin": (), "box": (4,), "shares": (1, runs.XFM["vocab_size"])}
        return {name: np.zeros((rows, *size)) for name, size in sizes.items()}

    monkeypatch.setattr(model._parts.programs, "batch_size", 8)
    monkeypatch.setattr(model._parts.programs, "_apply", answer)
    monkeypatch.setattr(programs, "_LENGTHS", (4, 8))
    return asked


def test_shapes_of_texts_over_images_are_few(model, shapes):
    rng = np.random.default_rng(0)
    pictures = [image.copy() for image in IMAGES * 5]
    for _ in range(60):
        some = [pictures[n] for n in rng.integers(20, size=rng.integers(1, 20))]
        texts = ["a " * n for n in rng.integers(1, 10, size=rng.integers(1, 20))]
        masked = [f"{text}[MASK]" for text in texts]
        few = min(len(some), len(texts))
        for images, part in ((some[:few], slice(few)), (some, slice(1)), (some[0], slice(None))):
            model.match(images, texts[part])
            model.locate(images, texts[part])
            model.fill_mask(masked[part], images)
        model.fill_mask(masked)
        model.search(texts[0], some, rerank=few)
    # 1, 2, 4, 8 images; texts of three lengths: 1, 2, 4, 8 over one image, else as many as images.
    found = {name: len(own) for name, own in shapes.items()}
    over = 3 * (4 + 3)
    most = {
        "image_feature": 4,
        "text_feature": 3,  # one text at a time
        "image_memory": 4,
        "match": over,
        "locate_and_match": over,
        "words_over_images": over,
        "words": 3 * 4,
    }
    assert found.keys() == most.keys() and found["match"] == over
    assert all(found[name] <= most[name] for name in most), found


def test_threads_may_ask_at_once(model):
    expected = model.encode_text(TEXTS)
    found = {}

    def ask(number):
        found[number] = model.encode_text(TEXTS)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for each in found.values():
        np.testing.assert_array_equal(each, expected)


def test_rows_are_shared_out_among_devices(model, workdir):
    several = unified_fm.load(workdir, batch_size=4, devices=jax.devices()[:4])
    images, texts = IMAGES[:3], TEXTS[:3]
    np.testing.assert_allclose(several.match(images, texts), model.match(images, texts), atol=1e-5)


def test_what_is_cut_is_said(model, caplog):
    model.encode_text("a square " * 20)
    assert "cut to 12 tokens, as in training" in caplog.text
