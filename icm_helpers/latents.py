"""The loss microscope: refine the latents of a fixed codec for one image, and see what a loss asks for. What a trained codec
approximates for all images at once, the microscope does for one, in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from compressai.models import MeanScaleHyperprior
from compressai.ops import quantize_ste
from torch import Tensor

from icm_helpers.codecs.container import pad

Answer = dict[str, Tensor | dict[str, Tensor]]  # of a codec: `x_hat` and `likelihoods`


def refinable(codec: object) -> bool:
    """Whether the latents of a codec are those of a mean-scale hyperprior."""
    return type(codec) is MeanScaleHyperprior  # a subclass has more to its entropy model: a context, a gain


def refine(
    codec: MeanScaleHyperprior,
    x: Tensor,
    objective: Callable[[Answer], Tensor],
    *,
    steps: int = 20,
    lr: float = 0.1,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""Minimise a loss over the latents :math:`y, z` of one image, the weights of a mean-scale hyperprior in eval mode fixed.

    :math:`\hat y, \hat z` pass the decoder rounded (straight-through gradient); the rate is estimated with noise, as in training.
    After Campos et al., "Content Adaptive Optimization for Neural Image Compression" (CVPRW 2019). Within `torch.autocast` the
    decoder and the objective compute in its precision, latents and entropy models in float32.

    Args:
        x: one image, (3, H, W) in [0, 1].
        objective: a codec's answer for the image (1, 3, H, W) -> the scalar to minimise; FloatingPointError where it is not finite.
        steps, lr: of Adam; 0 steps give the encoder's own latents. The rate is in units of the latent's rounding interval.

    Returns:
        y (1, M, H/16, W/16) and z (1, N, H/64, W/64), not rounded; :func:`latents` codes them.
    """
    if not refinable(codec):
        raise TypeError(f"refining needs the latents y and z of a mean-scale hyperprior, not a {type(codec).__name__}")
    device = next(codec.parameters()).device
    height, width = x.shape[1:]
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        y = codec.g_a(pad(x[None].to(device), codec.downsampling_factor))
        z = codec.h_a(y)
    y, z = y.requires_grad_(), z.requires_grad_()
    optimiser = torch.optim.Adam([y, z], lr=lr)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for step in range(steps):
            out = forward(codec, y, z)
            out["x_hat"] = out["x_hat"][..., :height, :width]
            loss = objective(out)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss.item()} at step {step}: lower lr (now {lr})")
            y.grad, z.grad = torch.autograd.grad(loss, [y, z])
            optimiser.step()
    return y.detach(), z.detach()


def forward(codec: MeanScaleHyperprior, y: Tensor, z: Tensor) -> Answer:
    """A codec's answer from given latents, differentiable in them: `x_hat` from rounded ones, `likelihoods` from noisy ones."""
    medians = codec.entropy_bottleneck._get_medians().detach()[None].reshape(1, -1, 1, 1)  # (C, 1, 1) -> (1, C, 1, 1)
    with torch.autocast(y.device.type, enabled=False):
        _, z_likelihoods = codec.entropy_bottleneck(z, training=True)
        z_hat = quantize_ste(z - medians) + medians
        scales, means = codec.h_s(z_hat).chunk(2, 1)
        _, y_likelihoods = codec.gaussian_conditional(y, scales, means=means, training=True)
        y_hat = quantize_ste(y - means) + means
    return {"x_hat": codec.g_s(y_hat).float(), "likelihoods": {"y": y_likelihoods, "z": z_likelihoods}}


@contextmanager
def latents(codec: MeanScaleHyperprior, y: Tensor, z: Tensor) -> Iterator[MeanScaleHyperprior]:
    """Within the block, the codec's analysis gives y and z whatever the image: `container.encode` then writes them, in bytes that
    decode with the codec as it was: only the encoder's side is replaced, and no weight."""
    codec.g_a.forward, codec.h_a.forward = (lambda _: y), (lambda _: z)
    try:
        yield codec
    finally:
        del codec.g_a.forward, codec.h_a.forward
