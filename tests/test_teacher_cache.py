"""A cached teacher says what the living one says, and a cache of anything else is refused."""

import shutil

import numpy as np
import pytest
import scipy.special

from tests import tiny_config, ufm_runs
from tests.models import tiny_ufm as tiny
from tools import cache_teacher
from unified_fm import assembly, plugins
from unified_fm.checkpoint import store as checkpoint
from unified_fm.config import settings
from unified_fm.teachers import cache as teacher_cache
from unified_fm.teachers import transform as teachers

RECORDS, BATCH = 20, 8
LAYERS = {"layers": 1, "width": 8, "heads": 2, "mlp_width": 16}
BERT = {"name": "bert", "vocab_size": 261, "max_positions": 16, "text": LAYERS}
KD = {"weight": 0.5, "teacher": "bert", "of": "mlm", "temperature": 2.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The teacher, and caches of two epochs of it: of all words, and of the best five."""
    root = tmp_path_factory.mktemp("cache")
    batch = {
        "text_masked": np.zeros((1, 16), np.int32),
        "text_mask": np.ones((1, 16), bool),
        "masked_positions": np.zeros((1, 3), np.int32),
    }
    options = dict(BERT)
    net = plugins.build("models", options.pop("name"), **options)
    checkpoint.save_params(root / "bert", tiny.params(net, tiny.targets, batch))
    live = config(root)
    cache_teacher.write(live, "bert", root / "all", epochs=2, top=1000)
    cache_teacher.write(live, "bert", root / "five", epochs=2, top=5)
    return root


def config(root, cache=None, steps=4, objective=(), **text):
    """A run of the little model; `objective` changes the distillation, `text` the stream."""
    c = settings.complete(tiny_config.get_config(str(steps)).to_dict())
    c["streams"] = {"text": dict(c["streams"]["text"])}
    options = {"source": f"synthetic:text:{RECORDS}", "batch_size": BATCH, "max_masked": 3}
    options["objectives"] = {"mlm": 0.5, "distill": KD | dict(objective)}
    c["streams"]["text"].update(options | text)
    where = {"cache": str(root / cache)} if cache else {"path": str(root / "bert"), "model": BERT}
    c["teachers"] = {"bert": {"streams": ["text"], **where}}
    c["mesh"] = {"data": -1, "fsdp": 1, "tensor": 1}
    return c


def opened(config):
    return assembly.streams(config, assembly.tokenizer(config))


def taught(config, batches):
    """What the transform gives for batches of the text stream."""
    made = teachers.build(config["teachers"])
    entry = config["teachers"]["bert"]
    params = {"bert": checkpoint.load_params(entry["path"]) if "path" in entry else {}}
    transform = teachers.make_transform(made)
    found = [transform(params, {"text": batch})["text"]["teacher"]["bert"] for batch in batches]
    return [np.asarray(each["mlm"]) for each in found]


def test_a_run_from_the_cache_is_the_run_with_the_teacher(folder, tmp_path):
    live = ufm_runs.run(config(folder), tmp_path / "live")
    cached = ufm_runs.run(config(folder, "all"), tmp_path / "cached")
    assert live.keys() == cached.keys()
    assert not any(name.startswith("text_embed") for name in live)  # the teacher is not saved
    for name, value in live.items():
        np.testing.assert_allclose(cached[name], value, atol=1e-5, err_msg=name)


def test_the_best_five(folder):
    with_teacher, with_five = opened(config(folder)), opened(config(folder, "five"))
    batches = [next(with_teacher)["text"] for _ in range(2)]
    rows = [next(with_five)["text"] for _ in range(2)]
    for mine, theirs in zip(rows, batches, strict=True):
        for name, array in theirs.items():
            np.testing.assert_array_equal(mine[name], array)
    pairs = zip(taught(config(folder, "five"), rows), taught(config(folder), batches), strict=True)
    for five, live in pairs:
        kept = five > five.min(-1, keepdims=True)
        assert (kept.sum(-1) == 5).all()
        np.testing.assert_allclose(five[kept], live[kept], atol=1e-5)
        assert (np.where(kept, live, np.inf).min(-1) >= np.where(kept, -np.inf, live).max(-1)).all()
        share = [(scipy.special.softmax(x, -1) * kept).sum(-1) for x in (five, live)]
        np.testing.assert_allclose(*share, atol=1e-5)  # the rest has what it had, evenly
    with_teacher.close()
    with_five.close()


def test_the_rest_shares_its_probability():
    ids, logits = teacher_cache.best(np.log([[0.5, 0.1, 0.2, 0.04, 0.16]]), 2)
    assert ids.tolist() == [[0, 2]]
    np.testing.assert_allclose(np.exp(logits), [[0.5, 0.2, 0.1]], rtol=1e-6)
    found = teacher_cache.targets({"mlm": {"ids": ids, "logits": logits}}, {"mlm": 5})
    np.testing.assert_allclose(np.exp(found["mlm"]), [[0.5, 0.1, 0.2, 0.1, 0.1]], rtol=1e-6)


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
        ("none", {}, "no teacher's cache in"),
    ],
)
def test_a_cache_that_does_not_fit_is_refused(folder, cache, changes, message):
    with pytest.raises(ValueError, match=message):
        opened(config(folder, cache, **changes))


def test_another_seed_or_tokenizer_is_refused(folder):
    with pytest.raises(ValueError, match=r"seed: 0 in the cache, 1 now"):
        opened(config(folder, "all") | {"seed": 1})


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
    assert cache_teacher.run([*flags, f"--workdir={tmp_path}"]) == 1
    assert "no teacher 'vit'; Possible: none." in capsys.readouterr().err


def test_the_arrays_are_read_from_disk(folder):
    ids, logits = teacher_cache.open_cache(folder / "five").arrays["text"]["mlm"]
    assert isinstance(ids, np.memmap) and isinstance(logits, np.memmap)
    assert ids.shape == (2 * RECORDS, 3, 5)
    assert logits.shape == (2 * RECORDS, 3, 5 + 1)  # and one for the rest


def test_a_cache_without_the_rest_is_refused(folder, tmp_path):
    shutil.copytree(folder / "five", tmp_path / "old")
    file = tmp_path / "old" / "text.mlm.logits.npy"
    np.save(file, np.load(file)[..., :5])
    with pytest.raises(ValueError, match=r"has 5 logits of text/mlm for the best 5 of 261, not 6"):
        teacher_cache.open_cache(tmp_path / "old")
