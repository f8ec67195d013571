"""Train a network to one video, as NeRV's encoder does: `train.fit` with NeRV's schedule, on frames kept on the device."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from pytorch_msssim import ms_ssim
from torch import Tensor, nn

from icm_helpers import train
from icm_helpers.codecs import nerv

STAGES = ("whole", "pruned")  # of a network's training


@dataclass(frozen=True)
class NervSchedule(train.Schedule):
    """Chen et al. (NeurIPS 2021): Adam with beta1 = 0.5, a linear warm-up from a tenth of the rate, then a cosine to zero."""

    clip: float = math.inf
    betas: ClassVar[tuple[float, float]] = (0.5, 0.999)

    def factor(self, step: int) -> float:
        """The learning rate at `step`, as a fraction of `lr`.

        >>> [round(NervSchedule(steps=10, warmup=2).factor(step), 3) for step in (0, 1, 2, 6)]
        [0.1, 0.55, 1.0, 0.5]
        """
        if step < self.warmup:
            return 0.1 + 0.9 * step / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / (self.steps - self.warmup)))


def overfit(
    network: nn.Module,
    frames: Tensor,
    loss: Callable[..., Tensor],
    *,
    masks: Tensor | None = None,
    epochs: int = 300,
    batch: int = 1,
    lr: float = 5e-4,
    warmup: float = 0.2,
    seed: int = 0,
    **how: Any,
) -> list[dict[str, float]]:
    """Train `network` in place until it draws `frames`, and give `train.fit`'s curve of its `loss` and `psnr` (dB, of each batch).

    The defaults are the published training. Weights that are exactly zero stay so: a network that `codecs.nerv.prune` made sparse
    is fine-tuned by calling this again (the paper: 50 epochs), with another folder. Only the part of the network's picture that
    the frames cover is compared.

    Args:
        network: draws (B, 3, H', W') at indices t, (B,); frame k of T has t = k / T.
        frames: (T, 3, H, W) in [0, 1], float32 or uint8 in 0..255, no larger than the network's picture, else ValueError. They are
            kept on the device in 8 bits.
        loss: `losses.nerv_loss`, called with frames and pictures; with masks `losses.sa_nerv_loss`, called with them too.
        masks: binary, (T, 1, H, W).
        epochs, batch: how often each frame is seen; frames a step, which those of the next epoch fill up.
        lr, warmup: of Adam, at its height; part of the training in which it rises.
        seed, device, precision, describe, how: as in `train.fit`, which also says what is raised when a training goes wrong.

    Returns:
        One dictionary for each 4 % of the steps: `step`, and means since the one before of `loss` and `psnr` (dB, of each batch).

    Raises:
        ValueError: frames or masks have another shape, or the frames are larger than the network's picture.
    """
    count, _, height, width = frames.shape
    if masks is not None and masks.shape != (count, 1, height, width):
        raise ValueError(f"masks of these frames have the shape {(count, 1, height, width)}, not {tuple(masks.shape)}")
    if height > network.size[0] or width > network.size[1]:
        raise ValueError(f"frames of {height} x {width}, but the network draws {network.size}: use another fc_hw_dim")
    steps = math.ceil(epochs * count / batch)
    schedule = NervSchedule(steps, batch=batch, lr=lr, warmup=int(warmup * steps), save_every=max(1, steps // 10))
    target = train.fabric(how.get("device", "auto"), how.get("precision", "32-true")).device
    kept = (frames if frames.dtype == torch.uint8 else (frames * 255).round().byte()).to(target)
    masked = masks.to(target, torch.uint8) if masks is not None else None

    def objective(model: nn.Module, order: Tensor) -> dict[str, Tensor]:
        x = kept[order].float() / 255
        x_hat = model(order / count)[..., :height, :width]
        value = loss(x, x_hat) if masked is None else loss(x, x_hat, masked[order].float())
        with torch.no_grad():
            psnr = -10 * (x_hat.float() - x).square().mean().log10()
        return {"loss": value, "psnr": psnr}

    network.to(target)
    hooks = [p.register_hook((p != 0).mul) for p in network.parameters() if bool((p == 0).any())]
    try:
        how = {"describe": "overfitting", "seed": seed, **how}
        orders = _Orders(count, steps * batch, seed)
        seen = [x.cpu().contiguous().numpy() for x in (kept, masked) if x is not None]
        orders.identity = "-".join(f"{zlib.crc32(x):08x}" for x in seen)
        return train.fit(network, orders, objective, schedule, **how)
    finally:
        for hook in hooks:
            hook.remove()


def file_of(
    model: nerv.NeRV,
    frames: Tensor,
    loss: Callable[..., Tensor],
    *,
    epochs: tuple[int, int],
    density: float,
    bits: int,
    folder: Path | None,
    name: str,
    **how: Any,
) -> bytes:
    """The file of a video: a network trained to its frames, pruned to a `density`, trained on, and encoded in `bits` a weight.

    `epochs` are those before and after pruning; a training that is stopped continues from `folder`, which :func:`forget` clears;
    the rest is as in :func:`overfit`.
    """
    nerv.header(frames.shape, model)  # before hours of work: whether the file can hold it
    for stage, count in zip(STAGES, epochs, strict=True):
        if stage == "pruned":
            nerv.prune(model, density)
        if count:
            where, told = folder and folder / stage, f"{name}, {stage}"
            overfit(model, frames, loss, epochs=count, folder=where, describe=told, identity=told, **how)
    return nerv.encode_video(frames, model.cpu(), bits=bits)


def forget(folder: Path) -> None:
    """Delete the checkpoints of a training that is done."""
    for stage in STAGES:
        (folder / stage / "training.ckpt").unlink(missing_ok=True)


def quality(frames: Tensor, decoded: Tensor) -> dict[str, float]:
    """PSNR in dB and MS-SSIM of a decoded video, (T, 3, H, W) in [0, 1]: means over its frames. Below 161 pixels of height or width
    MS-SSIM, which halves a picture four times, does not exist, and is NaN.

    >>> video = torch.zeros(2, 3, 16, 16)
    >>> quality(video, video + 0.1)
    {'psnr': 20.0, 'ms_ssim': nan}
    """
    psnr, similar = [], []
    for x, x_hat in zip(frames[:, None], decoded[:, None], strict=True):
        psnr.append(-10 * (x - x_hat).square().mean().log10().item())
        similar.append(ms_ssim(x_hat, x, data_range=1).item() if min(x.shape[2:]) > 160 else math.nan)
    return {"psnr": round(sum(psnr) / len(psnr), 4), "ms_ssim": round(sum(similar) / len(similar), 5)}


class _Orders(torch.utils.data.Dataset):
    """Which frame comes when: each epoch in an order of its own, that of (seed, epoch)."""

    def __init__(self, count: int, length: int, seed: int) -> None:
        seeds = (torch.Generator().manual_seed(seed * 1_000_003 + epoch) for epoch in range(-(-length // count)))
        self.order = torch.cat([torch.randperm(count, generator=generator) for generator in seeds])[:length]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Any:
        return self.order[index]

    def source(self, index: int) -> str:
        return f"frame {int(self.order[index])}"
