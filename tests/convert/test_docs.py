"""Every command of docs/checkpoints.md, in order, on tiny files of the names that it uses."""

import pathlib
import shlex
import struct

import numpy as np
import pytest

from tests.convert import test_families, test_xfm
from tests.convert.hostile import archive
from tests.convert.test_convert_checkpoint import folder
from tests.convert.test_parity import import_golden, read
from unified_fm.commands.convert import main
from unified_fm.convert import families
from unified_fm.convert.readers.safetensors_file import write_safetensors

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
START = "    tools/env.sh python tools/convert_checkpoint.py "
COMMANDS = [line.removeprefix(START) for line in PAGE.splitlines() if line.startswith(START)]


def torch_file(path, arrays):
    """A file as `torch.save({"model": arrays}, path)` writes it, made by hand."""

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def numbers(values):
        return b"(" + b"".join(b"J" + struct.pack("<i", n) for n in values) + b"t"

    program, entries = b"\x80\x02}" + text("model") + b"}(", []
    for key, (name, array) in enumerate(arrays.items()):
        whole = array.dtype.kind == "i"
        array = np.array(array, np.int64 if whole else np.float32, order="C")
        kind = b"LongStorage" if whole else b"FloatStorage"
        storage = b"(" + text("storage") + b"ctorch\n" + kind + b"\n" + text(str(key))
        storage += text("cpu") + b"J" + struct.pack("<i", array.size) + b"tQ"
        strides = [stride // array.itemsize for stride in array.strides]
        program += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00"
        program += numbers(array.shape) + numbers(strides)
        program += b"\x89ccollections\nOrderedDict\n)RtR"
        entries.append((f"archive/data/{key}", array.tobytes()))
    pickle = ("archive/data.pkl", program + b"us.")
    path.write_bytes(archive([pickle, ("archive/byteorder", b"little"), *entries]))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The working directory that the page has in mind."""
    monkeypatch.chdir(tmp_path)
    for name, golden in [
        ("bert-base-uncased", "bert_small"),
        ("roberta-base", "roberta_small"),
        ("vit-base", "vit_small"),
        ("beit-base", "beit_mean"),
        ("clip-vit-base-patch32", "clip_small"),
    ]:
        folder(golden, tmp_path / name)
    timm = test_families.timm(read("vit_odd")[1], layers=3)
    write_safetensors("vit_timm.safetensors", timm)
    beit = test_families.timm(read("beit_shared")[1], layers=2)
    torch_file(tmp_path / "beitv2_base_patch16_224.pth", beit)
    config, params, _, _ = read("vit_small")
    np.savez("B_16.npz", **test_families.google(import_golden("vit", params, config), new=False))
    with np.load(test_xfm.GOLDEN, allow_pickle=False) as file:
        xfm = {k.removeprefix("params/"): file[k] for k in file.files if k.startswith("params/")}
    torch_file(tmp_path / "xfm.th", xfm)
    tuned = {k: v for k, v in xfm.items() if not k.startswith("text_encoder.lm")}
    tuned["cls_head.0.weight"] = np.ones((2, 2), np.float32)
    torch_file(tmp_path / "xfm_nlvr2.th", tuned)
    torch_file(tmp_path / "x2vlm.th", test_xfm.as_x2vlm(xfm))
    pathlib.Path("theirs").mkdir()
    return tmp_path


@pytest.mark.slow
@pytest.mark.nightly
def test_every_command_works(files, capsys):
    for command in COMMANDS:
        if "package:" in command:  # real weights: tests/convert/test_parity.py
            continue
        status = main(shlex.split(command))
        assert status == 0, f"{command}\n{capsys.readouterr().err}"
        if "--verify" in command:
            assert "compared with the file, largest difference 0\n" in capsys.readouterr().out
    assert len(COMMANDS) > 20


def test_the_page_names_every_family_and_every_kind():
    words = set(shlex.split(" ".join(COMMANDS)))
    assert {f"--from={family}" for family in families.FAMILIES} <= words
    kinds = ["hf-bert", "hf-roberta", "hf-vit", "hf-beit", "hf-clip", "xfm", "npz"]
    assert {f"--to={kind}" for kind in [*kinds, "npz-big-vision"]} <= words
