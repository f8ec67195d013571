"""How long judging a data set takes, against a loop that codes, decodes and detects one picture at a time, and pycocotools."""

from __future__ import annotations

import contextlib
import io
import time
from collections import Counter
from typing import Any

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from icm_helpers import evaluate
from icm_helpers.codecs import container, zoo
from icm_helpers.codecs.tcm import TCM
from icm_helpers.data import coco, datasets
from icm_helpers.tasks import models

JUDGE = "yolov5n"


def codec(name: str) -> Any:
    if name != "tcm":
        return zoo.load(name, 32 if name == "hevc" else None)
    torch.manual_seed(0)
    model = TCM(N=64).eval()
    model.name, model.quality = "tcm", None
    model.update(force=True)
    return model


def one_by_one(
    model: Any, dataset: coco.CocoDataset, judge: evaluate.Detector, spent: Counter[str] | None = None
) -> float:
    """Box AP of YOLOv5n, as one measures it without the book; `spent` gets the seconds of each step."""
    found, spent = [], Counter() if spent is None else spent
    for i in range(len(dataset)):
        sample, begun = dataset[i], time.perf_counter()
        x = sample.image
        if isinstance(model, nn.Module):
            coded = model.compress(container.pad(x[None], model.downsampling_factor))
        else:
            coded = container.encode(model, x)
        encoded = time.perf_counter()
        if isinstance(model, nn.Module):
            x_hat = model.decompress(coded["strings"], coded["shape"])["x_hat"][0, :, : x.shape[1], : x.shape[2]]
        else:
            x_hat = container.decode(model, coded)
        decoded = time.perf_counter()
        found += evaluate.coco_results(sample.image_id, judge.detect([x_hat])[0])
        spent += Counter(encode=encoded - begun, decode=decoded - encoded, detect=time.perf_counter() - decoded)
    begun = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset.ground_truth()
        truth.createIndex()
        scored = COCOeval(truth, truth.loadRes(found), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    spent["score"] += time.perf_counter() - begun
    return float(scored.stats[0])


BOUNDS = {"mean-scale-small": (48, 1.25), "tcm": (4, 1), "hevc": (48, 0.8)}  # photographs, and the ratio at most


@pytest.mark.parametrize("name", BOUNDS)
def test_judging(versus, stages, name):
    photos, bound = BOUNDS[name]
    try:
        dataset, judge = datasets.load("coco-mini", "val", limit=photos), models.load(JUDGE)
    except (coco.DataError, FileNotFoundError) as error:
        pytest.skip(str(error))
    model, clean = codec(name), evaluate.clean_detections(dataset, judge, progress=False)

    def ours() -> float:
        result, _ = evaluate.evaluate(model, dataset, {JUDGE: judge}, {JUDGE: clean}, progress=False)
        return result["box_ap"][JUDGE]

    # The loop does not look at outer bits of float: a decoder may differ by one level where a network runs on several pictures.
    assert ours() == pytest.approx(one_by_one(model, dataset, judge), abs=0.01)
    assert versus(ours, lambda: one_by_one(model, dataset, judge), 2, f"a loop, {photos} photographs") < bound
    spent = Counter()
    one_by_one(model, dataset, judge, spent)
    begun = time.perf_counter()
    ours()
    whole = time.perf_counter() - begun
    truth, seconds = dataset.ground_truth(), []
    for samples in (evaluate.resamplings(dataset.ids), None) * 3:
        begun = time.perf_counter()
        evaluate.average_precision(truth, clean, "bbox", samples)
        seconds.append(time.perf_counter() - begun)
    replicates = min(seconds[::2]) - min(seconds[1::2])
    told = {"what": name, "pictures": photos, **spent}
    told |= {"loop": spent.total(), "judging": whole, "replicates": replicates}
    stages.append(told)
    print(f"{name}, seconds: {told}")
