"""A cached teacher says what the living one says, and a cache of anything else is refused."""

import json
import shutil

import jax
import numpy as np
import pytest
import scipy.special as sp

from tests import tiny_bert, tiny_config, ufm_runs
from tests.tiny_bert import BERT
from unified_fm import setup
from unified_fm.checkpoint import store as checkpoint
from unified_fm.commands import cache as cache_teacher
from unified_fm.config.settings import Settings
from unified_fm.teachers import cache as teacher_cache
from unified_fm.teachers import transform as teachers
from unified_fm.teachers.cache_writer import Writer

RECORDS, BATCH = 20, 8
KD = {"weight": 0.5, "teacher": "bert", "of": "mlm", "temperature": 2.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The teacher, and caches of two epochs of it: of all words, and of the best five."""
    root = tmp_path_factory.mktemp("cache")
    tiny_bert.save(root / "bert")
    live = config(root)
    cache_teacher.write(live, "bert", root / "all", epochs=2, top=1000)
    cache_teacher.write(live, "bert", root / "five", epochs=2, top=5)
    return root


def config(root, cache=None, steps=4, objective=(), **text):
    """A run of the little model; `objective` changes the distillation, `text` the stream."""
    c = tiny_config.get_config(str(steps)).to_dict()
    c["streams"] = {"text": dict(c["streams"]["text"])}
    options = {"source": f"synthetic:text:{RECORDS}", "batch_size": BATCH, "max_masked": 3}
    options["objectives"] = {"mlm": 0.5, "distill": KD | dict(objective)}
    c["streams"]["text"].update(options | text)
    where = {"cache": str(root / cache)} if cache else {"path": str(root / "bert"), "model": BERT}
    c["teachers"] = {"bert": {"streams": ["text"], **where}}
    c["mesh"] = {"data": -1, "fsdp": 1, "tensor": 1}
    return Settings.of(c)


def opened(config):
    return setup.prepare(config).open_streams()


def taught(config, batches):
    """What the transform gives for batches of the text stream."""
    made = teachers.build(config.teachers)
    path = config.teachers["bert"].path
    params = {"bert": checkpoint.load_params(path) if path else {}}
    transform = teachers.make_transform(made)
    found = [transform(params, {"text": batch})["text"]["teacher"]["bert"] for batch in batches]
    return [jax.tree.map(np.asarray, each["mlm"]) for each in found]


@pytest.mark.slow
def test_a_run_from_the_cache_is_the_run_with_the_teacher(folder, tmp_path):
    live = ufm_runs.run(config(folder), tmp_path / "live")
    cached = ufm_runs.run(config(folder, "all"), tmp_path / "cached")
    assert live.keys() == cached.keys()
    assert not any(name.startswith("text_embed") for name in live)  # the teacher is not saved
    for name, value in live.items():
        np.testing.assert_allclose(cached[name], value, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_the_best_five(folder):
    with_teacher, with_five = opened(config(folder)), opened(config(folder, "five"))
    batches = [next(with_teacher)["text"] for _ in range(2)]
    rows = [next(with_five)["text"] for _ in range(2)]
    for mine, theirs in zip(rows, batches, strict=True):
        for name, array in theirs.items():
            np.testing.assert_array_equal(mine[name], array)
    pairs = zip(taught(config(folder, "five"), rows), taught(config(folder), batches), strict=True)
    sums = np.zeros(2)
    for (five, live), batch in zip(pairs, batches, strict=True):
        assert five.ids.shape == (BATCH, 3, 5) and five.classes == 261
        kept = np.take_along_axis(live, five.ids, -1)
        np.testing.assert_allclose(five.logits, kept, atol=1e-5)
        np.testing.assert_allclose(five.logits, -np.sort(-live, axis=-1)[..., :5], atol=1e-5)
        share = np.take_along_axis(sp.softmax(live / 2, -1), five.ids, -1).sum(-1)
        others = sp.logsumexp(live / 2, -1) + np.log1p(-share)
        np.testing.assert_allclose(five.rests["kl at T=2.0"], others, atol=1e-5)
        used = batch["masked_ids"] != -100
        sums += share[used].sum(), used.sum()
    assert 0 < sums[1] < 2 * BATCH * 3  # some slots of masked words are not used
    (column,) = teacher_cache.open_cache(folder / "five").about["streams"]["text"]["rests"]["mlm"]
    assert (column["kind"], column["temperature"]) == ("kl", 2.0)
    assert column["mass_of_best"] == pytest.approx(sums[0] / sums[1], abs=0.005)  # two of 40 rows
    with_teacher.close()
    with_five.close()


P = np.array([[0.5, 0.1, 0.2, 0.04, 0.16], [0.05, 0.05, 0.8, 0.06, 0.04]], np.float32)


def write(to, logits, top, needs, used=(True, True)):
    """A cache of what someone says about two images."""
    writer = Writer(to)
    writer.begin("image", slots=len(logits), needs={"image": needs})
    found = jax.device_get(teacher_cache.best(logits, top, teacher_cache.lumps_of(needs)))
    writer.add("image", "image", 0, found, used=np.array(used), classes=logits.shape[-1])
    writer.finish("someone")
    return teacher_cache.open_cache(to)


def test_A1_the_rest_is_one_lump_at_each_temperature(tmp_path):
    needs = [("kl", 1.0), ("kl", 2.0), ("sigmoid_kl", 1.0), ("hard", 1.0)]
    cache = write(tmp_path / "cache", np.log(P), 2, needs)
    rows = cache.rows("image", np.array([1, 0]))
    found = teacher_cache.targets(rows, {"image": 5})["image"]
    assert found.ids.tolist() == [[2, 3], [0, 2]]
    np.testing.assert_allclose(np.exp(found.logits), [[0.8, 0.06], [0.5, 0.2]], rtol=1e-6)
    assert set(found.rests) == {"kl at T=1.0", "kl at T=2.0", "sigmoid_kl at T=1.0"}
    np.testing.assert_allclose(np.exp(found.rests["kl at T=1.0"]), [0.14, 0.3], rtol=1e-6)
    roots = np.sqrt([[0.05, 0.05, 0.04], [0.1, 0.04, 0.16]]).sum(-1)
    np.testing.assert_allclose(np.exp(found.rests["kl at T=2.0"]), roots, rtol=1e-6)
    # A logit log p is a question with odds p: none of some is a yes with prod 1 / (1 + p).
    none = 1 / np.prod(1 + np.array([[0.05, 0.05, 0.04], [0.1, 0.04, 0.16]]), -1)
    np.testing.assert_allclose(sp.expit(-found.rests["sigmoid_kl at T=1.0"]), none, rtol=1e-5)
    columns = cache.about["streams"]["image"]["rests"]["image"]
    mass = {(c["kind"], c["temperature"]): c["mass_of_best"] for c in columns}
    assert mass["kl", 1.0] == pytest.approx((0.7 + 0.86) / 2)
    best = np.sqrt([[0.8, 0.06], [0.5, 0.2]]).sum(-1)
    assert mass["kl", 2.0] == pytest.approx((best / (best + roots)).mean())
    assert mass["sigmoid_kl", 1.0] == pytest.approx(none.mean(), rel=1e-5)


def test_A1_with_all_logits_there_is_no_rest(tmp_path):
    cache = write(tmp_path / "cache", np.log(P), 9, [("kl", 2.0)])
    assert not (tmp_path / "cache" / "image.image.rest.npy").exists()
    found = teacher_cache.targets(cache.rows("image", np.arange(2)), {"image": 5})["image"]
    np.testing.assert_array_equal(found, np.log(P))


def test_A1_little_mass_of_the_best_is_warned_of(tmp_path, caplog):
    write(tmp_path / "sure", np.log(P), 4, [("kl", 1.0)])
    assert not caplog.records  # 0.96 of the probability
    write(tmp_path / "all", np.log(P), 5, [("kl", 1.0)])
    write(tmp_path / "hard", np.log(P), 2, [("hard", 1.0)])
    assert not caplog.records
    write(tmp_path / "few", np.log(P), 2, [("kl", 1.0)], used=(True, False))
    assert "the best of stream 'image', 'image' have 0.700 of the probability" in caplog.text


def test_A1_a_run_warns_of_little_mass(folder, caplog):
    opened(config(folder, "all")).close()
    assert "of the probability on average" not in caplog.text
    opened(config(folder, "five")).close()
    assert "teachers.bert: the cache" in caplog.text
    assert "the best of stream 'text', 'mlm' have 0." in caplog.text


def test_A1_all_logits_serve_every_temperature(folder):
    for change in ({"temperature": 3.0}, {"kind": "sigmoid_kl"}, {"kind": "mse"}):
        opened(config(folder, "all", objective=change)).close()


@pytest.mark.slow
def test_A1_a_truncated_run_in_micro_batches_on_several_devices(folder, tmp_path, monkeypatch):
    calm = config(folder, "five").replace(model={"name": "tests.tiny", "dropout": 0.0})
    whole = ufm_runs.run(calm, tmp_path / "whole")
    ufm_runs.on_devices(monkeypatch, 2)
    parts = ufm_runs.run(calm.replace(accumulate=2), tmp_path / "parts")
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, atol=1e-4, err_msg=name)
    row = json.loads((tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 <= row["text/distill/agreement"] <= 1 and row["text/distill"] > 0


def test_epochs_in_cycles(folder):
    """After two epochs of 20 records, 5 batches of 8, the very same arrays come again."""
    streams = opened(config(folder, "all", steps=100, cycle=2))
    batches = [next(streams)["text"] for _ in range(10)]
    streams.close()
    for early, late in zip(batches[:5], batches[5:], strict=True):
        np.testing.assert_array_equal(early["text_masked"], late["text_masked"])
        for part in ("ids", "logits"):
            np.testing.assert_array_equal(
                early["cached"]["bert"]["mlm"][part], late["cached"]["bert"]["mlm"][part]
            )
    assert any((batches[0]["text_masked"] != b["text_masked"]).any() for b in batches[1:5])


def test_it_goes_on_where_a_run_stopped(folder):
    streams = opened(config(folder, "all"))
    next(streams)
    position = streams.state()
    expected = next(streams)["text"]["cached"]["bert"]["mlm"]["logits"]
    streams.close()
    again = opened(config(folder, "all"))
    again.restore(position)
    np.testing.assert_array_equal(next(again)["text"]["cached"]["bert"]["mlm"]["logits"], expected)
    again.close()


@pytest.mark.parametrize(
    ("cache", "changes", "message"),
    [
        ("all", {"max_len": 12}, r"of other data than stream 'text':\n  stream: .*'max_len': 16"),
        ("all", {"mask_rate": 0.3}, "of other data"),
        ("all", {"source": "synthetic:text:21"}, r"records: 20 in the cache, 21 now"),
        ("all", {"steps": 6}, r"has 40 examples of stream 'text', the run sees 48; .* cycle=2"),
        ("five", {"objective": {"kind": "mse"}}, r"best 5 of 261 logits; kind='mse' needs all"),
        ("all", {"objective": {"positions": "all"}}, r"has mlm, not 'mlm_all'"),
        (
            "five",
            {"objective": {"temperature": 1.0}},
            r"together for kl at T=2\.0, not for kl at T=1",
        ),
        (
            "five",
            {"objective": {"kind": "sigmoid_kl"}},
            r"for kl at T=2\.0, not for sigmoid_kl at T",
        ),
        ("none", {}, "no teacher's cache in"),
    ],
)
def test_a_cache_that_does_not_fit_is_refused(folder, cache, changes, message):
    with pytest.raises(ValueError, match=message):
        opened(config(folder, cache, **changes))


def test_another_seed_or_tokenizer_is_refused(folder):
    with pytest.raises(ValueError, match=r"seed: 0 in the cache, 1 now"):
        opened(config(folder, "all").replace(seed=1))


def test_what_does_not_change_the_rows_may_change(folder):
    """The batch size, the number of threads, other objectives and their weights."""
    changes = {"batch_size": 4, "threads": 2, "objective": {"weight": 0.1}}
    streams = opened(config(folder, "all", **changes))
    other = opened(config(folder, "all"))
    small = [next(streams)["text"]["cached"]["bert"]["mlm"]["ids"] for _ in range(2)]
    large = next(other)["text"]["cached"]["bert"]["mlm"]["ids"]
    np.testing.assert_array_equal(np.concatenate(small), large)
    streams.close()
    other.close()


def test_states_are_not_cached(folder, tmp_path):
    states = config(folder, objective={"kind": "hidden_mse"})
    with pytest.raises(ValueError, match="a cache holds logits, and text_hidden are states"):
        cache_teacher.write(states, "bert", tmp_path / "cache", epochs=1, top=5)
    with pytest.raises(ValueError, match=r"no teacher 'vit'; Possible: bert"):
        cache_teacher.write(states, "vit", tmp_path / "cache", epochs=1, top=5)
    with pytest.raises(ValueError, match="exists; a cache is not written over anything"):
        cache_teacher.write(states, "bert", folder / "all", epochs=1, top=5)
    assert not (tmp_path / "cache").exists()


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    flags = ["--config=tests/tiny_config.py", "--teacher=vit", f"--to={tmp_path / 'cache'}"]
    assert cache_teacher.main([*flags, f"--workdir={tmp_path}"]) == 1
    assert "no teacher 'vit'; Possible: none." in capsys.readouterr().err


def test_the_arrays_are_read_from_disk(folder):
    arrays = teacher_cache.open_cache(folder / "five").arrays["text"]["mlm"]
    assert all(isinstance(array, np.memmap) for array in arrays.values())
    shapes = {what: array.shape for what, array in arrays.items()}
    one = (2 * RECORDS, 3)
    assert shapes == {"ids": (*one, 5), "logits": (*one, 5), "rest": (*one, 1)}


def test_A1_a_cache_of_an_evenly_spread_rest_is_refused(folder, tmp_path):
    """As caches were once: a last column of logits, and nothing about the rest in about.json."""
    old = tmp_path / "old"
    shutil.copytree(folder / "five", old)
    about = json.loads((old / "about.json").read_text())
    del about["streams"]["text"]["rests"]
    (old / "about.json").write_text(json.dumps(about))
    (old / "text.mlm.rest.npy").unlink()
    logits = np.load(old / "text.mlm.logits.npy")
    np.save(old / "text.mlm.logits.npy", np.concatenate([logits, logits[..., :1]], -1))
    with pytest.raises(ValueError, match=r"one and the same logit for each .* make it again with"):
        teacher_cache.open_cache(old)


def test_A1_a_cache_that_lacks_its_rest_is_refused(folder, tmp_path):
    shutil.copytree(folder / "five", tmp_path / "cut")
    (tmp_path / "cut" / "text.mlm.rest.npy").unlink()
    with pytest.raises(ValueError, match=r"5 logits and 0 columns .* text/mlm, not 5 and 1"):
        teacher_cache.open_cache(tmp_path / "cut")
    (tmp_path / "cut" / "text.mlm.ids.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match="no teacher's cache in"):
        teacher_cache.open_cache(tmp_path / "cut")


def test_A1_what_needs_all_logits_is_not_written_with_few(folder, tmp_path):
    wanted = config(folder, objective={"kind": "mse"})
    with pytest.raises(ValueError, match=r"--top=5 has the best 5 of 261 logits; kind='mse' needs"):
        cache_teacher.write(wanted, "bert", tmp_path / "cache", epochs=1, top=5)
