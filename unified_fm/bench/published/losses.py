"""The losses of the published program, stream by stream, each with passes of its own.

Left out is what only Python made slow there (a draw of negatives for each row, masks drawn inside
the step): whoever is as fast as this program is faster than the published one.
"""

from typing import Any

import torch  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

Batch = dict[str, torch.Tensor]
Losses = dict[str, torch.Tensor]


def of(model, batch: Batch, names) -> Losses:
    """The losses of one stream's batch, {name: f32[]}.

    Args:
        model: a `model.Model`.
        batch: tensors under our names; `image f[I 3 S S]` is normalised.
        names: of the losses, any of mlm, mim, itc, itm, imlm, bbox.
    """
    found: Losses = {}
    if "mlm" in names:
        states = model.read(batch["text_masked"], batch["text_mask"])
        found["mlm"] = masked_words(model.words, states, batch)
    image: Any = None
    if "image" in batch:
        flows = bool({"itc", "itm", "imlm", "bbox"} & {*names})
        with torch.set_grad_enabled(flows and torch.is_grad_enabled()):
            image = model.vision(batch["image"])
    if "mim" in names:
        hidden = model.vision(batch["image"], batch["patch_mask"])
        found["mim"] = masked_patches(hidden, image.detach(), batch["patch_mask"])
    if {"itc", "itm", "imlm", "bbox"} & {*names}:
        found |= _aligned(model, batch, names, image)
    return found


def _aligned(model, batch: Batch, names, image) -> Losses:
    found: Losses = {}
    text, mask = model.read(batch["text"], batch["text_mask"]), batch["text_mask"]
    still = text.detach()
    seen, seen_mask, whole, all_seen = _rows(batch, image)
    features = model.features(text, seen)
    similarity = features[0] @ features[1].T / model.temperature  # f32[text image]
    if "itc" in names:
        labels = torch.arange(len(similarity), device=similarity.device)
        both = [functional.cross_entropy(s, labels) for s in (similarity, similarity.T)]
        found["itc"] = sum(both) / 2
    if "itm" in names:
        fused = model.fuse(still, mask, seen, seen_mask)
        images, texts = negatives(similarity.detach(), batch)
        # The second pass: each text with a wrong image, and each image with a wrong text.
        wrong = model.fuse(
            torch.cat([still, still[texts]]),
            torch.cat([mask, mask[texts]]),
            torch.cat([seen[images], seen]),
            torch.cat([seen_mask[images], seen_mask]),
        )
        logits = model.itm_head(torch.cat([fused[:, 0], wrong[:, 0]]))
        labels = (torch.arange(len(logits), device=logits.device) < len(fused)).long()
        found["itm"] = functional.cross_entropy(logits, labels)
    if "imlm" in names:
        with torch.no_grad():
            masked = model.read(batch["text_masked"], mask)
        fused = model.fuse(masked, mask, seen, seen_mask)
        found["imlm"] = masked_words(model.fused_words, fused, batch)
    if "bbox" in names:
        fused = model.fuse(still, mask, whole, all_seen)
        found["bbox"] = boxes(model.box_head(fused[:, 0]).sigmoid(), batch)
    return found


def _rows(batch: Batch, image):
    """(what each row sees f[R 1+N D], its mask bool[R 1+N], its whole image, the mask of that)."""
    all_seen = torch.ones(image.shape[:2], dtype=torch.bool, device=image.device)
    if "image_index" not in batch:
        return image, all_seen, image, all_seen
    index, region = batch["image_index"].long(), batch["region_mask"]
    whole, all_seen = image[index], all_seen[index]
    weights = region.to(image.dtype)[..., None]
    pooled = (whole[:, 1:] * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
    seen = torch.cat([pooled, whole[:, 1:]], dim=1)
    return seen, torch.cat([all_seen[:, :1], region], dim=1), whole, all_seen


def negatives(similarity, batch: Batch):
    """(a wrong image for each text, a wrong text for each image), i64[B] each; by similarity.

    A batch with `negatives_image` and `negatives_text` says itself which.
    """
    if "negatives_image" in batch:
        return batch["negatives_image"].long(), batch["negatives_text"].long()
    drawn = []
    for each in (similarity, similarity.T):
        chances = each.softmax(dim=1) + 1e-5
        drawn.append(torch.multinomial(chances.fill_diagonal_(0), 1)[:, 0])
    return tuple(drawn)


def masked_words(head, states, batch: Batch):
    """Cross-entropy of the masked words; states f[B L D]."""
    places = batch["masked_positions"].long()[..., None].expand(-1, -1, states.shape[-1])
    logits = head(states.gather(1, places)).float()
    return functional.cross_entropy(logits.flatten(0, 1), batch["masked_ids"].long().flatten())


def masked_patches(states, target, mask):
    """Squared error of hidden patches and of slot 0; states and target f[B 1+N D]."""
    states, target = states.float(), target.float()
    patches = functional.mse_loss(states[:, 1:][mask], target[:, 1:][mask])
    return patches + functional.mse_loss(states[:, 0], target[:, 0])


def boxes(predicted, batch: Batch):
    """L1 and 1 - GIoU of boxes f32[R 4] (centre, size), over the rows that show a region."""
    target, real = batch["box"].float(), ~batch["is_image"].bool()
    count = real.sum()
    far = functional.l1_loss(predicted, target, reduction="none").sum(-1)
    l1 = torch.where(real, far, 0.0).sum() / count
    first, second = (_corners(box) for box in (predicted, target))
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    shared = _area(high[:, :2], low[:, 2:])
    union = _area(first[:, :2], first[:, 2:]) + _area(second[:, :2], second[:, 2:]) - shared
    hull = _area(low[:, :2], high[:, 2:])
    giou = shared / union - (hull - union) / hull
    return l1 + torch.where(real, 1 - giou, 0.0).sum() / count


def _corners(box):
    centre, size = box[:, :2], box[:, 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=1)


def _area(low, high):
    return (high - low).clamp(min=0).prod(dim=1)
