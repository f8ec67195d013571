"""What Segment Anything's masks cost: one pass for every alpha, and next to nothing in a training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from test_speed import ratio

from icm_helpers import masks, train
from icm_helpers.chapters.sa_icm import SA_SCENES
from icm_helpers.codecs import zoo
from icm_helpers.data import coco, datasets
from icm_helpers.data.crops import Crops
from icm_helpers.objectives import Objective, ObjectRegion
from icm_helpers.tasks import sam

ALPHAS = (0.98, 0.93, 0.48)


def test_one_pass_for_all_alphas_against_a_pass_for_each(benchmark):
    train.keep_freed_memory()  # as a pass over many pictures does
    model, (sample,) = sam.load(), datasets.load("scenes", "val", limit=1)

    def one_pass() -> list[masks.MaskSet]:
        found = masks.MaskSet.of(sample.image, sam.every_mask(model, sample.image, min(ALPHAS)))
        return [found.above(alpha) for alpha in ALPHAS]

    def a_pass_each() -> list[masks.MaskSet]:
        return [masks.MaskSet.of(sample.image, sam.every_mask(model, sample.image, alpha)) for alpha in ALPHAS]

    for ours, theirs in zip(one_pass(), a_pass_each(), strict=True):
        assert len(ours) and ours.counts == theirs.counts
    assert ratio(benchmark, one_pass, a_pass_each, 4) < 0.4


def test_a_training_on_edges_takes_hardly_longer_than_one_on_objects(benchmark, tmp_path):
    """Pictures and masks are read anew for each crop, as where a data set does not fit into memory."""
    dataset, study = datasets.load("scenes", "val", limit=8), SA_SCENES.training
    segment, recipe = masks.automatic()
    masks.make(tmp_path, dataset, segment, recipe, progress=False)
    schedule = train.Schedule(steps=24, batch=study.batch, lr=study.lr)

    def training(region: Callable[[coco.Sample], torch.Tensor] | None) -> Callable[[], object]:
        crops = Crops(dataset, study.patch, 0, 24 * study.batch, study.augment, region=region, cache=False)
        return lambda: train.fit(
            zoo.load(SA_SCENES.codec), crops, Objective(ObjectRegion(), 0.01), schedule, workers=1, progress=False
        )

    on_edges = training(lambda sample: masks.sam_edges(masks.read(tmp_path, sample.image_id), 0.93))
    assert ratio(benchmark, on_edges, training(None), 3) < 1.05
