"""The published training loop's step: three updates of AdamW, one after the other.

Texts first; then regions and images alone, whose gradients add up; then pairs. The schedule goes on
once. On a GPU, or where half precision is asked for, products are of bfloat16 by autocast.
"""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import torch  # pyright: ignore[reportMissingImports]

from unified_fm.bench.published import losses
from unified_fm.bench.published.model import Model

NO_DECAY = ("bias", "norm.weight", "relative_position_bias")
DOUBLED = ("text_proj", "image_proj", "temperature", "itm_head", "box_head")
# Around these numbers images are when they come to the encoder, of channels in 0..1.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How it is trained.

    Attributes:
        streams: {stream: {loss: weight}}.
        lr, b1, b2, eps, weight_decay: of AdamW.
        clip: largest gradient norm in the updates of texts and of pairs; None = any.
        warmup: updates of the schedule in which the rate rises.
        half: products in bfloat16.
        fused: AdamW as one kernel; else as PyTorch chooses.
        compiled: layers through `torch.compile`.
    """

    streams: Mapping[str, Mapping[str, float]]
    lr: float
    b1: float
    b2: float
    eps: float
    weight_decay: float
    clip: float | None
    warmup: int
    half: bool
    fused: bool = False
    compiled: bool = False

    @property
    def updates(self) -> list[tuple[list[str], bool]]:
        """(streams whose gradients make an update, whether it is clipped), in order."""
        texts = [name for name, losses in self.streams.items() if "mlm" in losses]
        pairs = [
            name
            for name, losses in self.streams.items()
            if "mim" in losses and len(losses) > 1 and name not in texts
        ]
        others = [name for name in self.streams if name not in [*texts, *pairs]]
        # Regions come before images alone.
        others.sort(key=lambda name: len(self.streams[name]) == 1)
        updates = [(texts, True), (others, False), (pairs, True)]
        return [(names, clipped) for names, clipped in updates if names]


class Program:
    """A model, its optimizer and a batch of every stream, on a device."""

    def __init__(
        self,
        model: Model,
        training: Training,
        batches: Mapping[str, Mapping],
        device: str,
    ):
        """Moves everything to the device.

        Args:
            model: see above.
            training: see above.
            batches: {stream: {our name: NumPy array}}; images u8[I H W 3].
            device: "cpu" or "cuda".
        """
        self.training, self.device = training, device
        self.model = model.to(device).train()
        if training.compiled:
            _compile_layers(self.model)
        self.batches = {name: prepared(batch, device) for name, batch in batches.items()}
        self.optimizer = torch.optim.AdamW(
            _groups(self.model, training),
            lr=training.lr,
            betas=(training.b1, training.b2),
            eps=training.eps,
            # None: a loop on CPU, several tensors at once on a GPU.
            fused=True if training.fused else None,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1.0, (step + 1) / max(training.warmup, 1))
        )

    def step(self) -> dict[str, float]:
        """One step of the loop; returns its losses, {"stream/loss": value}."""
        found = {}
        for names, clipped in self.training.updates:
            for name in names:
                found |= {f"{name}/{key}": x for key, x in self._backward(name).items()}
            if clipped and self.training.clip is not None:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        return {name: float(value) for name, value in found.items()}

    def timed(self) -> float:
        """Seconds of a step."""
        self._wait()
        started = time.perf_counter()
        self.step()
        self._wait()
        return time.perf_counter() - started

    def losses_of(self, name: str) -> losses.Losses:
        """Those of one stream."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.training.half):
            return losses.of(self.model, self.batches[name], self.training.streams[name])

    def _backward(self, name: str) -> losses.Losses:
        with torch.no_grad():  # at the start of every multimodal forward pass, as published
            self.model.temperature.clamp_(0.001, 0.5)
        found = self.losses_of(name)
        weights = self.training.streams[name]
        total: Any = sum(weights[key] * loss for key, loss in found.items())
        total.backward()
        return {key: loss.detach() for key, loss in found.items()}

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def prepared(batch: Mapping, device: str) -> losses.Batch:
    """A batch as the published loader gives it: images normalised, f32[I 3 H W]."""
    made = {name: torch.tensor(array) for name, array in batch.items()}
    if "image" in made and made["image"].dtype == torch.uint8:
        mean, std = (torch.tensor(x) for x in (MEAN, STD))
        image = (made["image"].float() / 255 - mean) / std
        made["image"] = image.permute(0, 3, 1, 2).contiguous()
    return {name: tensor.to(device) for name, tensor in made.items()}


def _groups(model: Model, training: Training) -> list[dict]:
    """The parameters in four groups: decayed or not, with the rate or with twice the rate."""
    groups: dict[tuple[float, float], list] = {}
    for name, parameter in model.named_parameters():
        decay = 0.0 if name.endswith(NO_DECAY) else training.weight_decay
        rate = training.lr * (2 if name.startswith(DOUBLED) else 1)
        groups.setdefault((decay, rate), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr": rate}
        for (decay, rate), parameters in groups.items()
    ]


def _compile_layers(model: Model) -> None:
    """Compiles layer by layer: those of one kind share their code, which whole encoders do not."""
    torch._dynamo.config.recompile_limit = 64  # shapes: streams times views
    for encoder in (model.text, model.vision, model.fusion):
        for name, module in encoder.named_children():
            if name.startswith("layer_"):
                module.compile(dynamic=False)
