"""A loss, a codec, a detector and a data set from outside the package: trained, coded, judged, and given a verdict in a study.

Nothing of the package knows them; each is a class or a function, and one entry in its registry.
"""

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from compressai.models import MeanScaleHyperprior
from PIL import Image

from icm_helpers import objectives, plots, run
from icm_helpers.codecs import container, zoo
from icm_helpers.data import datasets
from icm_helpers.data.coco import CocoDataset
from icm_helpers.ledger import recipe as recipes
from icm_helpers.ledger import results, verdicts
from icm_helpers.ledger.chapter import Claim
from icm_helpers.ledger.recipe import Accuracy, Pictures, Training, nested
from icm_helpers.ledger.study import Study
from icm_helpers.tasks import models


@dataclass(frozen=True)
class Absolute(objectives.Loss):
    """The absolute error, with a weight of its own outside objects."""

    name, label, colour, marker = "absolute", "absolute error", "#444444", "p"
    outside: float = 1.0

    def distortion(self, x_hat, x, clean):
        return 255 * ((clean + self.outside * (1 - clean)) * (x - x_hat).abs()).mean()


class Narrow(MeanScaleHyperprior):
    """A network that answers CompressAI's contract."""

    def __init__(self):
        super().__init__(8, 12)


@dataclass(frozen=True)
class Raw:
    """A codec of files: so many grey levels a value, and no compression at all."""

    levels: int
    name = "raw"

    def encode(self, x):
        return bytes(x.shape[1:]) + (x * (self.levels - 1)).round().byte().numpy().tobytes()

    def decode(self, data):
        values = np.frombuffer(data[2:], np.uint8).reshape(3, data[0], data[1]).astype(np.float32)
        return torch.from_numpy(values / (self.levels - 1))


class Brightest(torch.nn.Module):
    """A detector: the box around what is brighter than grey is a square."""

    categories: ClassVar = {1: "square"}

    @classmethod
    def from_weights(cls, path):
        assert path.read_text() == "no weights"
        return cls()

    def detect(self, images):
        found = []
        for x in images:
            rows, columns = (torch.nonzero(x.mean(0).amax(axis) > 0.5)[:, 0] for axis in (1, 0))
            some = min(len(rows), len(columns), 1)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if some else [0, 0, 0, 0]
            boxes = torch.tensor([box], dtype=torch.float32)[:some]
            found.append({"boxes": boxes, "scores": torch.ones(some), "labels": torch.ones(some, dtype=torch.int64)})
        return found


def squares(folder):
    """A data set: bright squares on dark ground, in COCO's format."""

    def opened(split, *, size, limit, root):
        images, annotations = [], []
        for k in range(limit or 4):
            pixels = np.full((64, 64, 3), 30, np.uint8)
            pixels[10 + k : 40 + k, 20 - k : 50 - k] = 220
            Image.fromarray(pixels).save(folder / f"{split}{k}.png")
            images.append({"id": k, "file_name": f"{split}{k}.png", "width": 64, "height": 64})
            annotations.append({"id": k + 1, "image_id": k, "category_id": 1, "bbox": [20 - k, 10 + k, 30, 30]})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
        (folder / f"{split}.json").write_text(json.dumps(content))
        return CocoDataset(folder, folder / f"{split}.json", limit=limit)

    return opened


@pytest.fixture
def toys(tmp_path, monkeypatch):
    for registry in (objectives.LOSSES, zoo.CODECS, models.MODELS, datasets.DATASETS):
        for name in ("absolute", "narrow", "raw", "brightest", "squares"):
            monkeypatch.setitem(registry, name, None)  # so that the end of the test forgets it
            del registry[name]
    monkeypatch.setattr(recipes, "LEDGER", tmp_path / "results")
    monkeypatch.setattr(run, "RUNS", tmp_path / "runs")
    weights = tmp_path / "brightest.txt"
    weights.write_text("no weights")
    objectives.register(Absolute)
    zoo.register(zoo.Codec("narrow", Narrow, network=True))
    zoo.register(zoo.Codec("raw", Raw, setting="quality", label="raw", colour="#222222", marker="x", suffix="raw"))
    models.register(models.Model("brightest", Brightest, lambda: weights, can=frozenset({"detect"})))
    datasets.register(datasets.DataSet("squares", squares(tmp_path), "bright squares"))


@pytest.fixture
def study(toys):
    return Study(
        chapter="toy",
        name="squares",
        pictures=Pictures("squares", images=4),
        codec="narrow",
        training=Training("none", 2, 1, 64, 1e-3, "none", "32-true", train_images=2),
        losses=((objectives.MSE(), 1.0), (Absolute(outside=0.5), 3.0)),
        lmbdas=(0.01, 0.1),
        measured=Accuracy((models.fingerprinted("brightest"),)),
        anchors=(("raw", (2, 200)),),
    )


def test_a_study_of_toys_trains_codes_judges_and_gets_a_verdict(study):
    records = run.records(study, rerun=True, device="cpu")
    assert [r.recipe.method for r in records] == ["mse", "absolute"] * 2 + ["raw", "raw", "png"]
    assert all(nested(recipes.flat(r.recipe)) == r.recipe == results.read(r.recipe).recipe for r in records)
    *_, coarse, fine, png = records
    assert coarse.result["psnr"] < fine.result["psnr"] and coarse.result["bpp"] == pytest.approx(24, rel=0.1)
    assert fine.result["box_ap"]["brightest"] == png.result["box_ap"]["brightest"] == 1.0
    test = "the raw codec's PSNR, at the rate of any"
    claim = Claim("toy/1", "Raw is raw.", "nowhere", test, +1, "rate", ("bpp",), anchor="raw", method="raw")
    (finding,) = verdicts.findings([claim], "squares", records)
    assert finding.verdict == "no difference" and finding.interval.value == 0
    assert plots.METHODS["absolute"][2] == "absolute error" and plots.METHODS["raw"][0] == "#222222"


def test_a_network_and_a_file_codec_of_ones_own_give_bytes_and_pictures(study):
    network = run.trained_codec(study.recipes()[1], device="cpu", keep=False, progress=False)
    x = datasets.load("squares", "val", limit=1)[0].image
    for codec in (network, zoo.load("raw", 200)):
        x_hat = container.decode(codec, container.encode(codec, x))
        assert x_hat.shape == x.shape and (x_hat - x).abs().mean() < (0.6 if codec is network else 0.01)
