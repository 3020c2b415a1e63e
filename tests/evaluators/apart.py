"""What one of several processes that share an evaluation does, for a test."""

import dataclasses
import json
import pathlib

import jax
from etils import epath
from jax.experimental import multihost_utils

from tests.evaluators import worlds
from unified_fm.data.pipelines import image_text
from unified_fm.data.streams import stream
from unified_fm.evaluators import (
    base,
    classify,
    grounding,
    held_out,
    imlm,
    itm,
    knn,
    linear_probe,
    mlm,
    retrieval,
)

PIPELINES = "tests.evaluators.apart"
decoded = set()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(image_text.Pipeline):
    """Pairs; it is remembered which were made."""

    def __call__(self, example, rng):
        decoded.add(example["id"])
        return super().__call__(example, rng)


def evaluators(passes):
    tokenizer = worlds.make_tokenizer()
    eight, labelled = (f"tests.evaluators.worlds:{name}" for name in ("eight", "labelled"))
    given = {"tokenizer": tokenizer, "passes": passes}
    plain = worlds.OPTIONS | {"num_masked": 0, "mask_rate": 0.0}
    pairs = given | {"source": eight, "batch_size": 3, "options": worlds.OPTIONS}
    images = {"options": {"size": worlds.SIZE, "patch_size": 4}, "train_source": labelled}
    images |= given | {"source": labelled, "batch_size": 5}
    return {
        "itm": itm.Evaluator(**pairs, pipeline=PIPELINES),
        "imlm": imlm.Evaluator(**pairs, pipeline=PIPELINES),
        "grounding": grounding.Evaluator(**pairs, pipeline=PIPELINES),
        "retrieval": retrieval.Evaluator(**pairs, pipeline=PIPELINES, candidates=4, rerank=2),
        "few": retrieval.Evaluator(**pairs, pipeline=PIPELINES, num_examples=1),
        "mlm": mlm.Evaluator(**pairs | {"options": {"max_len": 8}}, train_source=eight),
        "classify": classify.Evaluator(**images),
        "knn": knn.Evaluator(**images),
        "probe": linear_probe.Evaluator(**images),
        "held": held_out.Evaluator(
            **given,
            like="pairs",
            source=eight,
            streams={"pairs": stream("image_text", eight, 3, {"colour": 1.0}, **plain)},
        ),
    }


def evaluate(folder, index=0, count=1):
    """The metrics of all evaluators, which write into a folder that all processes see.

    Also which records this process has decoded, and which chunks of the re-ranking it found there.
    """
    tokenizer = worlds.make_tokenizer()
    objectives = {"pairs": {"colour": worlds.Objective(below=7)}}
    made = evaluators(base.Passes(index, count))
    made["retrieval"].place.name, made["retrieval"].place.step = "retrieval", 7
    made["retrieval"].place.folder = epath.Path(folder)
    before = chunks(folder)
    for name, evaluator in made.items():
        base.check(name, evaluator)
    decoded.clear()
    results = base.run_all(made, worlds.Apply(worlds.Oracle(tokenizer), objectives), {})
    metrics = {metric.name: metric[1:] for metric in results.metrics}
    shown = {name: len(examples) for name, examples in results.examples.items()}
    after = chunks(folder)
    kept = sorted(name for name in before if before[name] == after[name])
    return {"metrics": metrics, "decoded": sorted(decoded), "shown": shown, "kept": kept}


def chunks(folder):
    """{name: when it was written} of what a re-ranking has kept."""
    found = pathlib.Path(folder).glob("predictions/rerank/retrieval/*/*.npz")
    return {path.name: path.stat().st_mtime_ns for path in found}


def main(port, index, count, folder):
    """Does that in one of `count` processes, and prints it; again, when one chunk has been lost."""
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=count, process_id=index)
    first = evaluate(folder, index, count)
    multihost_utils.sync_global_devices("all chunks are there")
    if index == 0:
        [lost] = pathlib.Path(folder).glob("predictions/rerank/retrieval/*/chunk_00000.npz")
        lost.unlink()
    multihost_utils.sync_global_devices("one is lost")
    print(json.dumps(first | {"again": evaluate(folder, index, count)}))
