"""`unified-fm data convert`: shards of any source, interrupted, and never finished short."""

import json
import pathlib
import resource
from importlib import util

import pytest
from PIL import Image

from tests.data.prepare.converting import contents, convert, examples, listed, read
from tests.tasks import official_files as official
from unified_fm.commands import _data_convert
from unified_fm.data import images
from unified_fm.data.prepare import manifest, shard
from unified_fm.data.prepare.job import Job
from unified_fm.data.source import open_source


def captions(root, count=10):
    """A JSONL of pictures with captions."""
    for k in range(count):
        official.write_image(root / "img" / f"{k}.jpg", (30 + k, 20))
    lines = [{"image": f"img/{k}.jpg", "text": f"picture {k}", "id": k} for k in range(count)]
    return f"jsonl:{official.write_lines(root / 'pairs.jsonl', lines)}"


def test_shards_read_back_as_the_source(tmp_path, capsys):
    source = captions(tmp_path)
    assert convert(source, tmp_path / "out", "--shards=4") == 0
    assert "10 of 10 records (0 skipped) in 4 shards" in capsys.readouterr().out
    before = examples(open_source(source))
    assert read(tmp_path / "out") == [
        {**example, "image": pathlib.Path(example["image"]).read_bytes()} for example in before
    ]
    found = manifest.read(tmp_path / "out" / "data.manifest.json")
    assert found["records"] == found["job"]["read"] == 10
    assert found["schema"] == {"id": {"int": 10}, "image": {"bytes": 10}, "text": {"str": 10}}
    for entry in found["shards"]:
        path = tmp_path / "out" / entry["file"]
        assert shard.measured(path) == {key: entry[key] for key in ("bytes", "sha256")}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        [*(entry["file"] for entry in found["shards"]), "data.manifest.json"]
    )


def test_again_writes_nothing_and_other_numbers_are_refused(tmp_path, capsys, monkeypatch):
    source = captions(tmp_path)
    out = tmp_path / "out"
    assert convert(source, out, "--shards=3") == 0
    before = contents(out)
    monkeypatch.setattr(shard, "write", None)
    assert convert(source, out, "--shards=3") == 0
    assert "already done: 10 of 10 records" in capsys.readouterr().out
    assert convert(source, out, "--shards=3", "--resize=8") == 1
    said = capsys.readouterr().err
    assert "data.manifest.json is of another conversion: packing was" in said
    assert contents(out) == before
    next(out.glob("*-00001-*")).unlink()
    assert convert(source, out, "--shards=3") == 1
    assert "data-00001-of-00003.array_record is not there" in capsys.readouterr().err


def test_interrupted_it_goes_on_with_the_shards_that_are_not_done(tmp_path, capsys, monkeypatch):
    source = captions(tmp_path)
    assert convert(source, tmp_path / "whole", "--shards=5") == 0

    written, encode = [], shard.records.encode

    def dies(example):
        written.append(example["id"])
        if len(written) == 6:  # in the middle of the third shard
            raise Killed
        return encode(example)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(shard.records, "encode", dies)
        with pytest.raises(Killed):
            convert(source, out, "--shards=5")
    assert [path.name for path in sorted(out.glob("*.array_record"))] == [
        "data-00000-of-00005.array_record",
        "data-00001-of-00005.array_record",
    ]
    with pytest.raises(FileNotFoundError, match="3 of 5 shards are not there"):
        open_source(f"array_record:{out / 'data'}")

    # One of the two that were done is damaged, as by a power cut: it is made again.
    first = out / "data-00000-of-00005.array_record"
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    again = []
    monkeypatch.setattr(
        shard.records, "encode", lambda example: again.append(example["id"]) or encode(example)
    )
    assert convert(source, out, "--shards=5") == 0
    assert again == [0, 1, *range(4, 10)]
    assert contents(out) == contents(tmp_path / "whole")


class Killed(BaseException):
    """What no code catches."""


def test_killed_behind_the_manifest_the_next_call_tidies_up(tmp_path, capsys, monkeypatch):
    source, out = captions(tmp_path), tmp_path / "out"

    def dies(*about, **more):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(manifest.shutil, "rmtree", dies)
        with pytest.raises(Killed):
            convert(source, out, "--shards=3")
    before = contents(out)
    assert (out / ".data-unfinished").exists() and "data.manifest.json" in before
    (out / "data-00001-of-00003.array_record.0a1b2c3d.tmp").write_bytes(b"half")
    (out / "data.manifest.json.0a1b2c3d.tmp").write_bytes(b"half")
    (out / "data-more-00001-of-00003.array_record.0a1b2c3d.tmp").write_bytes(b"of another")
    assert convert(source, out, "--shards=3") == 0
    assert "already done" in capsys.readouterr().out
    (out / "data-more-00001-of-00003.array_record.0a1b2c3d.tmp").unlink()
    assert contents(out) == before and not (out / ".data-unfinished").exists()


def test_shards_of_another_number_would_be_read_too(tmp_path, capsys):
    source, out = captions(tmp_path), tmp_path / "out"
    assert convert(source, out, "--shards=2", "--name=data-more") == 0
    assert convert(source, out, "--shards=2") == 0
    (out / "data.manifest.json").unlink()  # as a message says, to have them written again
    assert convert(source, out, "--shards=3") == 1
    said = capsys.readouterr().err
    assert "has 2 shards of another conversion, data-00000-of-00002.array_record for one" in said
    assert convert(source, out, "--shards=2") == 0
    assert len(read(out)) == 10


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path, capsys):
    source, out = captions(tmp_path), tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))
    try:
        assert convert(source, out, "--shards=1") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written: " in capsys.readouterr().err
    assert not contents(out)
    assert convert(source, out, "--shards=1") == 0


def test_interrupted_it_says_that_it_goes_on(tmp_path, capsys, monkeypatch):
    def ctrl_c(example):
        raise KeyboardInterrupt

    monkeypatch.setattr(shard.records, "encode", ctrl_c)
    try:
        assert convert(captions(tmp_path), tmp_path / "out") == 130
    except KeyboardInterrupt:
        pytest.fail("it was not caught")
    assert "the same command goes on" in capsys.readouterr().err


def test_an_error_of_the_source_names_the_record(tmp_path, capsys, monkeypatch):
    source = captions(tmp_path)

    def odd(example, packing, parts):
        raise ValueError("a bug")

    monkeypatch.setattr(shard, "pack", odd)
    assert convert(source, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "a bug\nat record 0 of jsonl:" in said and "/img/0.jpg" in said


def test_bad_records_that_stand_together_do_not_stop_what_is_good_as_a_whole(tmp_path):
    job = Job(source="x", out=str(tmp_path), shards=100, records=100_000, identity="")
    boxes = {"seen": 10, "dropped": {"bad": 9}, "advice": ""}
    account = {"records": 600, "skipped": {"bad": 400}, "examples": {}, "schema": {}}
    manifest.check_loss(job, [account | {"parts": boxes}], max_skip=0.01)
    bad = account | {"parts": boxes | {"seen": 1000, "dropped": {"bad": 990}}}
    with pytest.raises(manifest.Unfinished, match="990 of 1,000 boxes cannot be used"):
        manifest.check_loss(job, [bad], max_skip=0.009)
    worse = account | {"skipped": {"bad": 1001}, "parts": boxes}
    with pytest.raises(manifest.Unfinished, match="1,001 of 1,601 records cannot be used"):
        manifest.check_loss(job, [worse], max_skip=0.01)


def test_it_never_finishes_short(tmp_path, capsys):
    source = captions(tmp_path)
    (tmp_path / "img" / "3.jpg").write_bytes(b"<html>")
    (tmp_path / "img" / "5.jpg").unlink()
    out = tmp_path / "out"
    assert convert(source, out, "--shards=2", "--max-skip=0") == 1
    said = capsys.readouterr().err
    assert "1 of 5 records cannot be used, more than max_skip=0 allows" in said
    assert "img/3.jpg" in said and "not an image" in said
    assert not (out / "data.manifest.json").exists()
    # Of ten records two are within the 1 % of a thousand that a stream allows, too.
    assert convert(source, out, "--shards=2") == 0
    found = manifest.read(out / "data.manifest.json")
    assert (found["records"], found["skipped"]) == (8, {"missing image": 1, "not an image": 1})
    assert "record 3 of jsonl:" in found["examples"]["not an image"][0]
    assert [example["id"] for example in read(out)] == [0, 1, 2, 4, 6, 7, 8, 9]


def test_a_manifest_wants_every_shard_and_every_record(tmp_path):
    options = _data_convert._parser("x").parse_args(
        [captions(tmp_path), f"--out={tmp_path / 'out'}", "--shards=3"]
    )
    job = _data_convert._job(options, open_source(options.source))
    manifest.begin(job)
    accounts = [shard.write(job, number) for number in range(3)]
    with pytest.raises(manifest.Unfinished, match="1 of 3 shards are not done, data-00001-of-"):
        manifest.finish(job, [accounts[0], accounts[2]])
    short = {**accounts[1], "records": 2}
    with pytest.raises(manifest.Unfinished, match="account for 9 of 10 records"):
        manifest.finish(job, [accounts[0], short, accounts[2]])
    assert not job.manifest.exists()


def test_pictures_are_made_smaller(tmp_path):
    source = captions(tmp_path)
    assert convert(source, tmp_path / "out", "--shards=1", "--resize=10") == 0
    (picture,) = {
        images.decode(e["image"]).shape[0] for e in open_source(f"array_record:{tmp_path}/out/data")
    }
    assert picture == 10


def test_class_names_stay(tmp_path):
    folder = official.write_classes(tmp_path / "classes")
    assert convert(f"folder:{folder}", tmp_path / "out") == 0
    packed = open_source(f"array_record:{tmp_path / 'out' / 'data'}")
    assert list(packed.class_names) == ["n01440764", "n01443537"]
    assert [example["label"] for example in examples(packed)] == [0, 0, 0, 1, 1, 1]


def official_sources(root):
    """A source string of each published layout, with the files that it reads."""
    official.write_glue(root / "glue")
    karpathy = official.write_karpathy(root / "coco")
    questions, answers = official.write_vqa(root / "vqa")
    genome = root / "vg"
    for k in (1, 2):
        official.write_image(genome / "VG_100K" / f"{k}.jpg", (80, 60))
    box = {"x": 1, "y": 2, "width": 30, "height": 20}
    phrases = [
        {"id": k, "regions": [{**box, "region_id": k, "image_id": k, "phrase": "a red cup"}]}
        for k in (1, 2)
    ]
    thing = {"x": 4, "y": 5, "w": 10, "h": 12, "object_id": 3, "names": ["cup", "mug"]}
    things = [{"image_id": 2, "attributes": [{**thing, "attributes": ["red"], "synsets": []}]}]
    official.write_json(genome / "region_descriptions.json", phrases)
    official.write_json(genome / "attributes.json", things)
    captions = official.write_coco_captions(root / "coco2014", {5: ["a cup", "one"], 6: ["a dog"]})
    pictures = json.loads(captions.read_text())["images"]
    for picture in pictures:
        official.write_image(root / "coco2014" / picture["file_name"])
    boxes = [{"image_id": 5, "category_id": 47, "bbox": [1, 2, 30, 20]}]
    content = {"images": pictures, "annotations": boxes, "categories": [{"id": 47, "name": "cup"}]}
    instances = official.write_json(root / "coco2014" / "instances_val2014.json", content)
    for name in ("00000/000000000.jpg", "mine/1.jpg"):
        official.write_image(root / "cc3m" / name)
    rows = ["a dog , running\thttp://x.org/a.jpg", "a cup\tmine/1.jpg", "gone\thttp://x.org/b.jpg"]
    fetched = f"{official.write_rows(root / 'cc3m.tsv', rows)}@{root / 'cc3m'}"
    return {
        "coco": f"coco:{captions}:{instances}@{root / 'coco2014'}",
        "cc3m": f"cc3m:{fetched}",
        "glue": f"glue:{root / 'glue' / 'MRPC'}:train",
        "karpathy": f"karpathy:{karpathy}:test",
        "vqa": f"vqa:{questions}:{answers}",
        "nlvr2": f"nlvr2:{official.write_nlvr2(root / 'nlvr2')}",
        "refcoco": f"refcoco:{official.write_refcoco(root / 'refcoco')}:testA",
        "visual_genome": f"visual_genome:{genome}",
    }


def test_published_layouts_keep_every_field(tmp_path):
    for name, source in official_sources(tmp_path).items():
        out = tmp_path / "out" / name
        assert convert(source, out) == 0, name
        before = examples(open_source(source))
        assert len(before) > 1, name
        for old, new in zip(before, read(out), strict=True):
            for field in ("image", "images"):
                paths, packed = listed(old.pop(field, [])), listed(new.pop(field, []))
                assert packed == [pathlib.Path(path).read_bytes() for path in paths]
            assert new == old


def test_regions_are_written_as_the_lines_that_x_fm_reads(tmp_path):
    source = official_sources(tmp_path)["visual_genome"]
    assert convert(source, tmp_path / "out", "--form=jsonl", "--shards=2", "--name=regions") == 0
    lines = (tmp_path / "out" / "regions-00001-of-00002.jsonl").read_text().splitlines()
    (line,) = map(json.loads, lines)
    assert list(line) == ["image_id", "binary", "elems"]
    assert line["elems"] == [
        {"bb": [1, 2, 30, 20], "caption": "a red cup"},
        {"bb": [4, 5, 10, 12], "caption": ["cup", "mug"], "attributes": ["red"]},
    ]
    first, second = examples(open_source(f"jsonl:{tmp_path / 'out'}/regions-*.jsonl"))
    assert (first["id"], second["id"]) == (1, 2)
    assert images.decode(second["image"]).shape == (60, 80, 3)
    assert second["regions"][1]["text"] == ["cup", "mug"]


def test_pairs_are_written_as_the_lines_that_x_fm_reads(tmp_path):
    assert convert(captions(tmp_path), tmp_path / "out", "--form=jsonl", "--shards=1") == 0
    lines = (tmp_path / "out" / "data-00000-of-00001.jsonl").read_text().splitlines()
    assert {**json.loads(lines[2]), "binary": ""} == {
        "image_id": 2,
        "binary": "",
        "desc": "picture 2",
    }


def test_a_line_for_x_fm_has_our_fields_under_their_names():
    example = {"id": 5, "image": b"x", "text": "ours", "image_id": 17, "binary": "y", "mine": 1}
    assert json.loads(shard.xfm_line(example | {"caption": "theirs"})) == {
        "image_id": 5,
        "binary": "eA==",
        "desc": "ours",
        "mine": 1,
    }
    assert json.loads(shard.xfm_line({"id": 1, "image": None, "text": "a"})) == {
        "image_id": 1,
        "desc": "a",
    }
    for regions in ("a cup", ["a cup"], {"box": [1, 2, 3, 4]}):
        with pytest.raises(TypeError, match="regions are a list of objects"):
            shard.xfm_line({"id": 1, "regions": regions})


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--max-skip=2"], "--max-skip=2 is a share, 0 to 1"),
        (["--workers=-1"], "--workers=-1; a number of processes"),
    ],
)
def test_options_that_cannot_be(tmp_path, capsys, more, said):
    with pytest.raises(SystemExit):
        convert("jsonl:x", tmp_path / "out", *more)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--shards=0"], "0 shards of 10 records"),
        (["--name=a/b"], "name is 'a/b'"),
        (["--quality=101"], "quality is 101"),
        (["--runner=flink"], "--runner=flink needs apache_beam, which is not installed"),
    ],
)
def test_what_cannot_be_is_a_sentence(tmp_path, capsys, monkeypatch, more, said):
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda n: None if n == "apache_beam" else find(n))
    assert convert(captions(tmp_path), tmp_path / "out", *more) == 1
    assert said in capsys.readouterr().err


def test_a_value_that_no_shard_can_hold_is_a_reason(tmp_path, monkeypatch):
    source = captions(tmp_path)
    opened = open_source(source)

    class Odd:
        class_names, problems, lost = (), (), 0

        def __len__(self):
            return len(opened)

        def __getitem__(self, index):
            return {**opened[index], **({"x": {1, 2}} if index == 4 else {})}

        def place(self, index):
            return "here"

    monkeypatch.setattr(shard, "_opened", lambda spec: Odd())
    assert convert(source, tmp_path / "out") == 0
    found = manifest.read(tmp_path / "out" / "data.manifest.json")
    assert found["skipped"] == {"value that a shard cannot hold": 1}
    assert "example['x'] is of type set" in found["examples"]["value that a shard cannot hold"][0]


def test_a_picture_with_transparency_is_packed_as_a_viewer_shows_it(tmp_path):
    Image.new("RGBA", (40, 20), (0, 0, 0, 0)).save(tmp_path / "a.png")
    lines = official.write_lines(tmp_path / "x.jsonl", [{"image": "a.png", "text": "white"}])
    assert convert(f"jsonl:{lines}", tmp_path / "out", "--resize=10") == 0
    (example,) = read(tmp_path / "out")
    pixels = images.decode(example["image"])
    assert pixels.shape == (10, 20, 3)
    assert pixels.min() > 250
