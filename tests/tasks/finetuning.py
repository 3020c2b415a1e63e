"""Official files where the configs look for them, and runs of these configs in this process."""

import contextlib
import functools
import json
import pathlib

import jax

from tests.tasks import official_files
from unified_fm import main, sharding
from unified_fm.tasks._metrics import caption_reward
from unified_fm.tasks._scoring import scorers

ROOT = pathlib.Path(__file__).parents[2]


@contextlib.contextmanager
def quick(monkeypatch):
    """One device, and little effort of the compiler."""
    one = functools.partial(sharding.make_mesh, devices=jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", one)
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


def write_data(root: pathlib.Path) -> None:
    """The files of every task below ROOT/data."""
    data = root / "data"
    official_files.write_glue(data / "glue")
    for split in ("train", "val"):
        official_files.write_classes(data / "imagenet" / split)
    dev = official_files.write_nlvr2(data / "nlvr2", whole=True)
    dev.with_name("train.json").write_bytes(dev.read_bytes())
    for split in ("train2014", "val2014"):
        official_files.write_vqa(data / "vqa", split)
        (data / "coco").mkdir(exist_ok=True)
        (data / "vqa" / split).rename(data / "coco" / split)
    official_files.write_json(data / "vqa" / "answers.json", ["yes", "2", "red"])
    for split in ("train", "val"):
        folder = data / "coco" / "train2014"
        official_files.write_mdetr(data / "refcoco", "refcoco+", split, folder)
    karpathy = official_files.write_karpathy(data / "coco")
    official_files.write_karpathy(data / "flickr30k", flickr=True)
    rows = scorers.read_captions(karpathy, "train")
    found = caption_reward.training_frequencies([row.captions for row in rows])
    found.save(data / "coco" / "frequencies.json")


def train(spec: str, workdir, *changes: str) -> int:
    """Runs `unified-fm train` of a config in configs/finetune; the exit status."""
    more = [f"--config.{change}" for change in ("log.tensorboard=False", *changes)]
    config = f"{ROOT}/configs/finetune/{spec.replace(':', '.py:', 1)}"
    return main.main(["main", f"--config={config}", f"--workdir={workdir}", *more])


def metrics(workdir) -> dict[int, dict[str, float]]:
    """{step: what the evaluators measured there}."""
    found: dict[int, dict[str, float]] = {}
    for line in (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        found.setdefault(entry["step"], {}).update(entry)
    return found
