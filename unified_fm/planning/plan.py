"""The plan of a run on devices that are not here: its step, compiled ahead of time and read.

    made = plan.make(settings, topologies.parse("v5e:16x16"), compiler="tpu", say=print)
    made.plan.total, made.plan.roofline.least

Nothing is run: no data, no tokenizer, no teacher's weights and no device are needed.
"""

import contextlib
import dataclasses
import re
import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from unified_fm import constraints, setup, sharding
from unified_fm.bench import flops
from unified_fm.config import durations
from unified_fm.config.settings import Settings
from unified_fm.data import tokenizer as tokenizers
from unified_fm.planning import hlo, meshes, roofline, topologies, traffic, variants, work
from unified_fm.planning.roofline import Roofline
from unified_fm.planning.topologies import Topology
from unified_fm.planning.traffic import Collective

# A GPU's driver, libraries and communication buffers need some of its memory.
USABLE = 0.95
_DAY, _EPOCH = 86_400, 1000
# "... the total memory required for HLO temporaries (225.61G) exceeds available HBM (15.75G)."
_TPU_NEEDS = re.compile(r"\((\d+\.\d+)G\) exceeds available HBM \((\d+\.\d+)G\)")
_SURE = 0.95  # of what two refusals say that a smaller batch needs

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What one step of a run is on one device of a topology. Bytes are of one device.

    Attributes:
        topology, compiler, mesh: what it was compiled for, by what, {axis: size}.
        rows: {stream: (rows, images) of one part of the batch}.
        parameters: of the model, all of them.
        params, optimizer, average, teachers, batch: bytes of the arrays that a step is given.
        arguments, outputs, aliased, temporaries, code: bytes, as the compiler counts them.
        memory: of the chip.
        collectives: those that run.
        flops: of matrix products, padding and recomputation included.
        padded, necessary: FLOPs that the model asks for with texts at full length, and without
            padding; recomputation and teachers are in neither.
        waste: {stream: share of its FLOPs that is padding}.
        moved: bytes read from and written to the chip's memory.
        roofline: of a step.
        steps: of the run; None where epochs of data that is not here count.
        seconds: of compilation here.
        peak: bytes of this machine's memory, at most.
    """

    topology: str
    compiler: str
    mesh: Mapping[str, int]
    rows: Mapping[str, tuple[float, float]]
    parameters: int
    params: float
    optimizer: float
    average: float
    teachers: float
    batch: float
    arguments: float
    outputs: float
    aliased: float
    temporaries: float
    code: float
    memory: float
    collectives: list[Collective]
    flops: float
    padded: float
    necessary: float
    waste: Mapping[str, float]
    moved: float
    roofline: Roofline
    steps: int | None
    seconds: float
    peak: float

    @property
    def total(self) -> float:
        """Bytes that a step needs at once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code

    @property
    def usable(self) -> float:
        """Bytes of the chip's memory that a step may need."""
        return self.memory * (1 if self.compiler == "tpu" else USABLE)

    @property
    def fits(self) -> bool:
        """Whether that is less than the chip has.

        A TPU's compiler refuses what is temporary and too large; what a step is given comes on top.
        """
        return self.total <= self.usable

    def days(self, seconds: float) -> float | None:
        """Of the whole run, at so many seconds a step."""
        return None if self.steps is None else self.steps * seconds / _DAY


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refusal:
    """A batch that does not fit: its rows, and the compiler's words or ours.

    Attributes:
        rows: {stream: (rows, images) of one part of the batch}.
        text: why.
        seconds: of compilation here.
        needed, available: bytes; 0 where the compiler has not said them.
    """

    rows: Mapping[str, tuple[float, float]]
    text: str
    seconds: float
    needed: float = 0.0
    available: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """The plan of the largest batch that fits, if there is one, and what was refused before.

    Attributes:
        topology: for which.
        plan: None where no batch fits.
        refused: the batches before.
        in_parts: {key of the config: number} that makes the batch in micro-batches, where none
            fits whole; empty where it cannot be cut.
    """

    topology: str
    plan: Plan | None
    refused: list[Refusal]
    in_parts: Mapping[str, int] = dataclasses.field(default_factory=dict)


def make(
    settings: Settings, topology: Topology, *, compiler: str, search: bool = True, say: Say
) -> Made:
    """Compiles the step for the topology, with smaller batches as long as it does not fit.

    Each is half of the one before; those that need too much by what the refused ones needed are
    passed over, since each compilation takes minutes.

    Args:
        settings: of the run, as `variants.for_platform` gives them.
        topology: for which.
        compiler: as `topologies.compiler` gives it.
        search: whether smaller batches are tried.
        say: is told what goes on.

    Raises:
        ValueError: a mesh that cannot be made, with the nearest that can, or whatever `setup`
            refuses.
    """
    devices = topologies.devices(topology, compiler)
    refused: list[Refusal] = []
    in_parts: Mapping[str, int] = {}
    current: Settings | None = settings
    while current is not None:
        ready = setup.prepare(current, tokenizer=tokenizers.load("bytes"), devices=devices)
        try:
            meshes.check(ready)
        except ValueError:
            if not refused:
                raise
            break  # of the halved batch
        found = _attempt(ready, topology, compiler, say)
        if isinstance(found, Plan) and found.fits:
            return Made(topology=topology.text, plan=found, refused=refused)
        if isinstance(found, Plan):
            text = (
                f"{found.total / 1e9:.1f} GB are needed of {found.memory / 1e9:.1f} GB "
                f"(of which {found.usable / found.memory:.0%} are usable)"
            )
            found = Refusal(
                rows=found.rows,
                text=text,
                seconds=found.seconds,
                needed=found.total,
                available=found.usable,
            )
        refused.append(found)
        if current is settings:
            in_parts = _in_parts(ready, refused)
        say(f"does not fit: {found.text.splitlines()[0]}")
        current = _smaller(current, refused, ready.mesh, say) if search else None
    return Made(topology=topology.text, plan=None, refused=refused, in_parts=in_parts)


def _in_parts(ready: setup.Prepared, refused: Sequence[Refusal]) -> Mapping[str, int]:
    """What makes the batch in so many micro-batches that one may fit, or in as many as can be."""
    parts, count = sharding.batch_shards(ready.mesh), ready.settings.accumulate
    rows, grouped = rows_in_all(refused[-1].rows), constraints.grouped(ready.program, ready.shapes)
    found: Mapping[str, int] = {}
    while True:
        count *= 2
        following = variants.accumulated(ready.settings, count, parts, grouped)
        if following is None:
            return found
        found = following
        if least_memory(refused, rows / count) <= refused[-1].available:
            return found


def _smaller(
    current: Settings, refused: Sequence[Refusal], mesh: jax.sharding.Mesh, say: Say
) -> Settings | None:
    """The largest of the halves that may fit."""
    parts = sharding.batch_shards(mesh)
    smaller = variants.halved(current)
    # The smallest is tried in any case, so that the compiler has the last word.
    while smaller is not None and (following := variants.halved(smaller)) is not None:
        rows, smaller_still = variants.rows(smaller, parts), variants.rows(following, parts)
        least = least_memory(refused, rows_in_all(rows))
        if least <= refused[-1].available or min(n for n, _ in smaller_still.values()) < 1:
            break
        count = rows_in_all(rows)
        say(f"passed over: {count:g} rows on each device need {least / 1e9:.0f} GB or more")
        smaller = following
    return smaller


def least_memory(refused: Sequence[Refusal], rows: float) -> float:
    """Bytes that a batch of so many rows needs at least; 0: nothing is known.

    A step needs so much for what it always has, and so much for each row. One refusal bounds
    that from below by its bytes for each row; from two, it is the line through both.
    """
    known = [(rows_in_all(each.rows), each.needed) for each in refused if each.needed]
    if not known:
        return 0.0
    (last, needed), *before = reversed(known)
    if not before:
        return needed * rows / last
    other, more = before[0]
    return _SURE * (needed - (last - rows) * (more - needed) / (other - last))


def rows_in_all(rows: Mapping[str, tuple[float, float]]) -> float:
    """Of all streams; they are halved together."""
    return sum(count for count, _ in rows.values())


def _attempt(ready: setup.Prepared, topology: Topology, compiler: str, say: Say) -> Plan | Refusal:
    """One compilation; a plan also where it needs more memory than there is."""
    _resolve_steps(ready)
    rows = variants.rows(ready.settings, sharding.batch_shards(ready.mesh))
    told = ", ".join(f"{name} {count:g}" for name, (count, _) in rows.items())
    started = time.monotonic()
    say(f"tracing the step; rows on each device: {told}")
    teachers = _placed_teachers(ready)
    lowered = ready.train_step().lower(ready.target, teachers, ready.batches)
    say(f"traced in {time.monotonic() - started:.0f} s; compiling for {topology.text}")
    started = time.monotonic()
    try:
        with _heartbeat(say):
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text:
            raise
        needed, available = (
            (float(gigabytes) * 2**30 for gigabytes in said.groups())
            if (said := _TPU_NEEDS.search(text))
            else (0.0, 0.0)
        )
        passed = time.monotonic() - started
        return Refusal(rows=rows, text=text, seconds=passed, needed=needed, available=available)
    seconds = time.monotonic() - started
    say(f"compiled in {seconds:.0f} s; reading the program")
    return read(
        ready, compiled, topology=topology, compiler=compiler, seconds=seconds, teachers=teachers
    )


def read(
    ready: setup.Prepared,
    compiled: Any,
    *,
    topology: Topology,
    compiler: str,
    seconds: float = 0.0,
    teachers: Any = None,
) -> Plan:
    """The plan of a step that is compiled.

    Args:
        ready: the run.
        compiled: its step.
        topology, compiler: for which and by what.
        seconds: that it took.
        teachers: {teacher: its parameters as shapes with shardings}.
    """
    module, stats = hlo.parse(compiled.as_text()), compiled.memory_analysis()
    collectives = traffic.of(module, ready.mesh.size)
    executed, moved = work.flops(module), work.moved(module)
    counted = flops.of_step(ready.settings, shapes=ready.shapes)
    total = flops.total(counted)
    hosts = topologies.hosts(ready.mesh.devices.flat, topology, compiler)
    steps = None if durations.streams(ready.settings) else ready.steps.total
    return Plan(
        topology=topology.text,
        compiler=compiler,
        mesh=dict(ready.mesh.shape),
        rows=variants.rows(ready.settings, sharding.batch_shards(ready.mesh)),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(ready.params)),
        params=on_device(ready.target.params),
        optimizer=on_device(ready.target.opt_state),
        average=on_device(ready.target.ema),
        teachers=on_device(teachers or {}),
        batch=on_device(ready.batches),
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
        memory=topology.chip.memory,
        collectives=collectives,
        flops=executed,
        padded=total.shared / ready.mesh.size,
        necessary=total.necessary / ready.mesh.size,
        waste={
            name: 1 - each.necessary / each.shared for name, each in counted.items() if each.shared
        },
        moved=moved,
        roofline=roofline.of(
            topology.chip, flops=executed, moved=moved, collectives=collectives, hosts=hosts
        ),
        steps=steps,
        seconds=seconds,
        peak=_resident(),
    )


def on_device(tree: Any) -> int:
    """Bytes of a tree of shapes with shardings that one device holds."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _placed_teachers(ready: setup.Prepared) -> Mapping[str, Any]:
    """The teachers' parameters, where `load_teachers` would put them."""
    rules = ready.settings.rules.sharding
    return {
        name: sharding.on_mesh(tree, sharding.params_shardings(ready.mesh, tree, rules))
        for name, tree in ready.teacher_shapes.items()
    }


def _resolve_steps(ready: setup.Prepared) -> None:
    """Lets epochs of data that is not here have some length: no number of a plan depends on it."""
    for name in durations.streams(ready.settings):
        batch = ready.settings.streams[name].batch_size
        ready.counts.setdefault(name, {"records": _EPOCH * batch, "batch": batch})


@contextlib.contextmanager
def _heartbeat(say: Say, every: float = 60.0) -> Iterator[None]:
    """Says every minute that it goes on: a compilation takes many, and prints nothing."""
    done, started = threading.Event(), time.monotonic()

    def beat() -> None:
        while not done.wait(every):
            passed = time.monotonic() - started
            say(f"  compiling, {passed:.0f} s, {_resident() / 1e9:.1f} GB of this machine's memory")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _resident() -> float:
    """Bytes of memory that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
