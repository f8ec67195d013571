"""The losses: values by hand, gradients where they belong, clear errors."""

import pytest
import torch
from torch.nn.functional import mse_loss

from icm_helpers.losses import (
    PEAK,
    box_weights,
    feature_distillation,
    masked_mse,
    nerv_loss,
    objectness_weights,
    rate,
    rate_distortion,
    sa_nerv_loss,
)


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


# --- distillation --------------------------------------------------------------------------------------------------------

SIZES = {"p2": (8, 12), "p5": (1, 2)}


def maps(channels: int = 4, requires_grad: bool = False) -> dict[str, torch.Tensor]:
    return {level: torch.randn(2, channels, *size, requires_grad=requires_grad) for level, size in SIZES.items()}


def test_eq_4_with_ones_is_exactly_eq_2_a_mean_over_levels():
    f, f_hat = maps(), maps()
    ones = {level: torch.ones(2, 1, *size) for level, size in SIZES.items()}
    plain = feature_distillation(f, f_hat)
    assert feature_distillation(f, f_hat, ones) == plain
    assert plain.item() == pytest.approx(sum(mse_loss(f_hat[k], f[k]).item() for k in f) / 2)


def test_a_weight_counts_for_every_channel_of_its_cell_and_image():
    zeros, ones = ({k: torch.full((2, c, *size), float(v)) for k, size in SIZES.items()} for c, v in ((4, 0), (4, 1)))
    weights = {k: torch.zeros(2, 1, *size) for k, size in SIZES.items()}
    weights["p2"][1, 0, 3, 5] = 0.5
    assert feature_distillation(zeros, ones, weights).item() == pytest.approx(0.5 / (2 * 8 * 12) / 2)


def test_the_gradient_of_features_is_zero_where_the_weight_is_and_weights_get_none():
    f_hat = maps(requires_grad=True)
    weights = {k: (torch.rand(2, 1, *size) < 0.5).float().requires_grad_() for k, size in SIZES.items()}
    feature_distillation(maps(), f_hat, weights).backward()
    for level, w in weights.items():
        inside = w.bool().expand_as(f_hat[level])
        assert (f_hat[level].grad[~inside] == 0).all() and (f_hat[level].grad[inside] != 0).all()
        assert w.grad is None


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_an_error_even_where_the_weight_is_zero(value):
    f_hat, weights = maps(), {k: torch.zeros(2, 1, *size) for k, size in SIZES.items()}
    f_hat["p5"][0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="features p5 hold NaN or infinity"):
        feature_distillation(maps(), f_hat, weights)


def test_features_that_do_not_fit_get_a_clear_error():
    f = maps()
    with pytest.raises(ValueError, match="levels differ: p2, p5 of the original, p2 decoded"):
        feature_distillation(f, {"p2": f["p2"]})
    with pytest.raises(ValueError, match="levels differ: none of the original"):
        feature_distillation({}, {})
    with pytest.raises(ValueError, match="features p2 differ in shape"):
        feature_distillation(f, maps(channels=3))
    with pytest.raises(ValueError, match=r"weights p2 must have shape \(2, 1, 8, 12\), not \(2, 4, 8, 12\)"):
        feature_distillation(f, f, f)


def test_objectness_is_the_probability_of_the_likeliest_anchor_or_their_mean():
    logits = {k: 3 * torch.randn(2, 3, *size, requires_grad=True) for k, size in SIZES.items()}
    most, mean = (objectness_weights(logits, SIZES, how) for how in ("max", "mean"))
    for level, size in SIZES.items():
        assert most[level].shape == (2, 1, *size) and not most[level].requires_grad
        torch.testing.assert_close(most[level][:, 0], logits[level].detach().max(1)[0].sigmoid())
        assert (mean[level] < most[level]).all()


def test_a_low_temperature_sharpens_objectness():
    logits = {"p2": torch.tensor([2.0, -2.0]).reshape(2, 1, 1, 1)}
    sharp, plain, soft = (objectness_weights(logits, {"p2": (1, 1)}, temperature=t)["p2"] for t in (0.5, 1, 2))
    assert sharp[0] > plain[0] > soft[0] > 0.5 > soft[1] > plain[1] > sharp[1]


def test_objectness_of_another_size_is_resized_to_the_features():
    logits = {"p2": torch.full((1, 3, 4, 6), -50.0)}
    logits["p2"][..., :3] = 50
    found = objectness_weights(logits, {"p2": (8, 12)})["p2"]
    assert found.shape == (1, 1, 8, 12) and (found[..., :5] > 0.99).all() and (found[..., 7:] < 0.01).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "sum"}, "reduction must be max or mean, not 'sum'"),
        ({"temperature": 0.0}, "temperature must be positive, not 0.0"),
        ({"sizes": {"p3": (1, 1)}}, "no objectness for p3; known: p2"),
    ],
)
def test_objectness_with_wrong_options_gets_a_clear_error(options, message):
    with pytest.raises(ValueError, match=message):
        objectness_weights({"p2": torch.zeros(1, 3, 1, 1)}, **{"sizes": {"p2": (1, 1)}} | options)


def test_boxes_are_drawn_at_the_resolution_of_each_level_and_none_vanishes():
    small, large = torch.tensor([[17.0, 1, 18, 2]]), torch.tensor([[0.0, 0, 48, 32], [1, 1, 2, 2]])
    found = box_weights([small, large], SIZES, (32, 48))
    assert found["p2"][0, 0].nonzero().tolist() == [[0, 4]] and found["p5"][0, 0].tolist() == [[1, 0]]
    assert all((found[level][1] == 1).all() for level in SIZES)


def test_an_image_without_boxes_weighs_nothing():
    found = box_weights([torch.zeros(0, 4), torch.tensor([[0.0, 0, 4, 4]])], SIZES, (32, 48))
    assert all(w.shape == (2, 1, *SIZES[k]) and not w[0].any() and w[1].any() for k, w in found.items())


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
