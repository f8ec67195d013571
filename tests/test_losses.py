"""The losses: values by hand, gradients where they belong, clear errors."""

import pytest
import torch
from torch.nn.functional import mse_loss

from icm_helpers.losses import PEAK, masked_mse, nerv_loss, rate, rate_distortion, sa_nerv_loss


def test_rate_counts_bits_per_pixel():
    likelihoods = {"y": torch.full((2, 4, 1, 1), 0.25), "z": torch.full((2, 2, 1, 1), 0.5)}
    assert rate(likelihoods, pixels=2 * 16).item() == pytest.approx((8 * 2 + 4 * 1) / 32)


def test_a_mask_of_ones_gives_the_plain_mse():
    x, x_hat = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    assert masked_mse(x, x_hat, torch.ones(2, 1, 8, 8)).item() == pytest.approx(mse_loss(x_hat, x).item())


def test_the_mean_runs_over_all_pixels():
    x, mask = torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    mask[..., :2, :2] = 1  # a quarter of the pixels, each off by one
    assert masked_mse(x, x + 1, mask).item() == pytest.approx(0.25)


def test_gradient_is_zero_outside_the_mask():
    x, x_hat = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8, requires_grad=True)
    mask = (torch.rand(2, 1, 8, 8) < 0.5).float()
    masked_mse(x, x_hat, mask).backward()
    inside = mask.bool().expand_as(x)
    assert (x_hat.grad[~inside] == 0).all()
    assert (x_hat.grad[inside] != 0).all()


def test_an_empty_mask_leaves_only_the_rate():
    x, likelihoods = torch.rand(1, 3, 8, 8), {"y": torch.full((1, 1, 2, 2), 0.5)}
    terms = rate_distortion({"x_hat": torch.rand_like(x), "likelihoods": likelihoods}, x, 0.1, torch.zeros(1, 1, 8, 8))
    assert terms["loss"] == terms["bpp"] and terms["distortion"] == 0


def test_the_loss_is_rate_plus_lambda_times_distortion():
    x, x_hat = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    terms = rate_distortion({"x_hat": x_hat, "likelihoods": {"y": torch.full((1, 1, 2, 2), 0.5)}}, x, 0.02)
    assert terms["loss"].item() == pytest.approx(4 / 64 + 0.02 * PEAK**2 * mse_loss(x_hat, x).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("x_hat", "mask", "message"),
    [
        (torch.rand(1, 3, 8, 9), torch.ones(1, 1, 8, 8), "differ in shape"),
        (torch.rand(1, 3, 8, 8), torch.ones(1, 8, 8), "must have shape"),
        (torch.rand(1, 3, 8, 8), torch.full((1, 1, 8, 8), 0.5), "binary"),
        (torch.rand(1, 3, 8, 8), torch.full((1, 1, 8, 8), float("nan")), "binary"),
    ],
)
def test_wrong_input_gets_a_clear_error(x_hat, mask, message):
    with pytest.raises(ValueError, match=message):
        masked_mse(torch.rand(1, 3, 8, 8), x_hat, mask)


def test_lambda_must_be_positive():
    with pytest.raises(ValueError, match="lmbda must be positive"):
        rate_distortion({"x_hat": torch.rand(1, 3, 8, 8), "likelihoods": {}}, torch.rand(1, 3, 8, 8), 0.0)


def test_nerv_loss_weighs_l1_and_ssim():
    x = torch.zeros(2, 3, 16, 16)
    ssim = 0.01**2 / (0.1**2 + 0.01**2)  # of a black and a flat picture of 0.1: only the means differ
    assert nerv_loss(x, x + 0.1).item() == pytest.approx(0.7 * 0.1 + 0.3 * (1 - ssim), rel=1e-4)
    assert nerv_loss(x, x + 0.1, beta=1).item() == pytest.approx(0.1)


def test_sa_nerv_loss_is_nerv_s_with_an_empty_mask_and_twice_that_with_a_full_one():
    x, x_hat = torch.rand(2, 3, 24, 24), torch.rand(2, 3, 24, 24)
    empty, full = torch.zeros(2, 1, 24, 24), torch.ones(2, 1, 24, 24)
    assert sa_nerv_loss(x, x_hat, empty).item() == pytest.approx(nerv_loss(x, x_hat).item(), rel=1e-6)
    assert sa_nerv_loss(x, x_hat, full).item() == pytest.approx(2 * nerv_loss(x, x_hat).item(), rel=1e-6)
    assert sa_nerv_loss(x, x_hat, full, weight=3).item() == pytest.approx(4 * nerv_loss(x, x_hat).item(), rel=1e-6)


def test_the_masked_term_of_sa_nerv_sees_only_what_the_mask_shows():
    x, x_hat, mask = torch.rand(1, 3, 24, 24), torch.rand(1, 3, 24, 24, requires_grad=True), torch.zeros(1, 1, 24, 24)
    mask[..., 8:12, 8:12] = 1
    (sa_nerv_loss(x, x_hat, mask) - nerv_loss(x, x_hat)).backward()
    inside = mask.bool().expand_as(x)
    assert x_hat.grad[~inside].abs().max() < 1e-8 < x_hat.grad[inside].abs().min()


@pytest.mark.parametrize(
    ("x_hat", "mask", "beta", "message"),
    [
        (torch.rand(1, 3, 16, 17), torch.ones(1, 1, 16, 16), 0.7, "differ in shape"),
        (torch.rand(1, 3, 16, 16), torch.ones(1, 16, 16), 0.7, "must have shape"),
        (torch.rand(1, 3, 16, 16), torch.full((1, 1, 16, 16), 0.5), 0.7, "binary"),
        (torch.rand(1, 3, 16, 16), torch.ones(1, 1, 16, 16), 1.1, "beta"),
    ],
)
def test_wrong_input_of_sa_nerv_gets_a_clear_error(x_hat, mask, beta, message):
    with pytest.raises(ValueError, match=message):
        sa_nerv_loss(torch.rand(1, 3, 16, 16), x_hat, mask, beta)


def test_frames_below_the_window_of_ssim_are_refused():
    with pytest.raises(ValueError, match="11 x 11"):
        nerv_loss(torch.rand(1, 3, 10, 16), torch.rand(1, 3, 10, 16))
