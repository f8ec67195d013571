"""What pages show of findings and pictures."""

import base64
import io
import itertools
import math
import random
import re
from types import SimpleNamespace
from typing import ClassVar

import av
import matplotlib
import pytest
import torch

from icm_helpers import chapters, train
from icm_helpers.intervals import Interval
from icm_helpers.ledger import film, forest, live, report, slider
from icm_helpers.ledger.verdicts import Finding

matplotlib.use("Agg")
CLAIM = chapters.named("object_region_mse").claims[0]


class Nothing:
    """A detector that finds nothing."""

    categories: ClassVar = {}

    def detect(self, images):
        empty = torch.zeros(0)
        return [{"boxes": empty.reshape(0, 4), "labels": empty.long(), "scores": empty} for _ in images]


def finding(value, low, high, metric="box_ap", unit="% rate", trainings=3):
    interval = Interval(value, low, high, trainings=trainings, spread=1.0)
    return Finding(CLAIM, "scenes", metric, "mask-rcnn-small", interval, unit)


def test_a_forest_plot_has_a_panel_for_each_unit_and_a_line_for_each_finding():
    found = [finding(-9.0, -12.0, -6.0), finding(1.0, -50.0, 60.0), finding(0.3, 0.2, 0.4, "psnr_inside", "dB")]
    rate, decibel = forest.plot(found).axes
    assert [len(ax.get_yticklabels()) for ax in (rate, decibel)] == [2, 1]
    assert all(low <= 0 <= high for low, high in (ax.get_xlim() for ax in (rate, decibel)))


def test_verdicts_can_be_told_apart_without_their_colours():
    assert len({(marker, filled) for marker, _, filled in forest.LOOKS.values()}) == len(forest.LOOKS)


def test_what_is_not_testable_is_named_without_an_interval():
    (ax,) = forest.plot([finding(math.nan, math.nan, math.nan)]).axes
    assert [text.get_text() for text in ax.texts] == [" not testable"]
    forest.plot([])


def test_a_slider_holds_both_pictures_and_needs_nothing_from_elsewhere():
    told = slider.compare({"MSE <1>": torch.zeros(3, 8, 8), "task": torch.ones(3, 8, 8)}).data
    assert told.count("data:image/webp;base64,") == 2 and 'type="range"' in told and "&lt;1&gt;" in told
    assert "http" not in told and "<script" not in told


@pytest.mark.parametrize("sizes", [[8], [8, 8, 8], [8, 9]])
def test_a_slider_refuses_what_it_cannot_lay_over_each_other(sizes):
    with pytest.raises(ValueError, match="two pictures of one size"):
        slider.compare({str(i): torch.zeros(3, 8, side) for i, side in enumerate(sizes)})


def test_a_film_plays_every_frame_of_every_version():
    versions = {name: torch.rand(3, 3, 32, 48) for name in ("original", "NeRV")}
    told = film.play(versions, Nothing()).data
    data = base64.b64decode(re.search(r"video/mp4;base64,([^\"]+)", told)[1])
    with av.open(io.BytesIO(data)) as opened:
        assert len(list(opened.decode(video=0))) == 3
    assert "poster=" in told and "original, NeRV" in told
    with pytest.raises(ValueError, match=r"as many frames each, not \[2, 3\]"):
        film.play(versions | {"HEVC": torch.rand(2, 3, 32, 48)}, Nothing())


class Weight(torch.nn.Module):
    """One number, which a training moves to that of its batches."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(1))

    def update(self, force):
        return force


class Numbers(torch.utils.data.Dataset):
    """Pictures of one pixel, in batches as crops make them."""

    def __len__(self):
        return 200

    def __getitem__(self, i):
        return torch.full((3, 1, 1), 1.0 + 0.01 * (i % 3)), torch.ones(1, 1, 1)


def distance(model, batch):
    return {"loss": (model.w - batch[0]).square().mean()}


def test_a_training_to_watch_shows_the_loss_of_held_out_crops_from_before_the_first_step(capsys):
    schedule = train.Schedule(steps=100, batch=2, lr=0.05, warmup=1)
    _, curve = live.fit(Weight(), Numbers(), Numbers(), distance, schedule, title="x", device="cpu", progress=False)
    assert curve[0]["step"] == 0 and curve[-1]["step"] == 100 and curve[-1]["loss"] < 0.1 * curve[0]["loss"]
    assert "down by 1.0" in capsys.readouterr().out


def test_a_training_that_learns_nothing_is_an_error():
    schedule = train.Schedule(steps=50, batch=2, lr=0.05)
    others = [(-x, mask) for x, mask in (Numbers()[i] for i in range(4))]  # the held-out crops ask for the opposite
    with pytest.raises(RuntimeError, match="did not fall in 50 steps"):
        live.fit(Weight(), Numbers(), others, distance, schedule, title="x", device="cpu", progress=False)


def test_the_nearest_rates_are_those_of_all_combinations():
    dice = random.Random(0)
    for _ in range(50):
        groups = [[SimpleNamespace(result={"bpp": dice.random()}) for _ in range(4)] for _ in range(3)]
        spread = lambda some: max(r.result["bpp"] for r in some) - min(r.result["bpp"] for r in some)  # noqa: E731
        chosen = report._nearest(groups)
        assert all(record in group for record, group in zip(chosen, groups, strict=True))
        assert spread(chosen) == min(map(spread, itertools.product(*groups)))
