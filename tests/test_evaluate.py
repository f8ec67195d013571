"""The measures: AP and its bootstrap against their definitions, BD-rates known by hand, and whole evaluations."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as rle

from icm_helpers import semantic
from icm_helpers.bd import Curve, bd_metric, bd_rate, bd_rate_gap, curve
from icm_helpers.bit_allocation import rate_map, spending
from icm_helpers.codecs import container, zoo
from icm_helpers.codecs.classical import Jpeg, Png
from icm_helpers.data import coco, datasets, formats
from icm_helpers.evaluate import (
    THIRDS,
    as_truth,
    average_precision,
    clean_detections,
    coco_results,
    evaluate,
    likelihood_bits,
    resamplings,
)

SIDE, IMAGES = 100, 6


def truth_and_guesses() -> tuple[dict, list[dict]]:
    """Six made images with three objects each of two categories, and what a poor detector says of them."""
    rng = np.random.default_rng(0)
    annotations, guesses = [], []
    for image in range(1, IMAGES + 1):
        for k in range(3):
            box = np.array([*rng.uniform(0, 60, 2), *rng.uniform(15, 40, 2)])
            entry = {"image_id": image, "category_id": 1 + k % 2, "bbox": box.tolist()}
            annotations.append({**entry, "id": len(annotations) + 1, "area": box[2] * box[3], "iscrowd": 0})
            guesses.append({**entry, "bbox": (box + rng.normal(0, 2, 4)).tolist(), "score": rng.uniform(0.3, 1)})
        stray = [*rng.uniform(0, 60, 2), 30, 30]
        guesses.append({"image_id": image, "category_id": 1, "bbox": stray, "score": rng.uniform(0, 0.9)})
    images = [{"id": i, "width": SIDE, "height": SIDE, "file_name": f"{i}.png"} for i in range(1, IMAGES + 1)]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1}, {"id": 2}]}, guesses


def repeated(truth: dict, guesses: list[dict], sample: np.ndarray) -> tuple[dict, list[dict]]:
    """The data set in which every drawn image is an image of its own."""
    annotations, found = [], []
    for new, index in enumerate(sample, start=1):
        old = truth["images"][index]["id"]
        annotations += [a | {"image_id": new} for a in truth["annotations"] if a["image_id"] == old]
        found += [g | {"image_id": new} for g in guesses if g["image_id"] == old]
    annotations = [a | {"id": n} for n, a in enumerate(annotations, start=1)]
    images = [truth["images"][0] | {"id": new} for new in range(1, len(sample) + 1)]
    return truth | {"images": images, "annotations": annotations}, found


def test_perfect_detections_have_ap_one_and_none_have_zero():
    truth, _ = truth_and_guesses()
    perfect = [{k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9} for a in truth["annotations"]]
    assert average_precision(truth, perfect)[0]["ap"] == pytest.approx(1)
    assert average_precision(truth, [], samples=resamplings(range(IMAGES))) == (
        {"ap": 0.0, "ap50": 0.0, "ap75": 0.0},
        [0.0] * 200,
    )


def test_a_replicate_is_the_ap_of_the_data_set_that_repeats_the_drawn_images():
    truth, guesses = truth_and_guesses()
    samples = np.array([range(IMAGES), [0, 0, 1, 5, 5, 5], [4, 3, 2, 2, 1, 0]])
    summary, replicates = average_precision(truth, guesses, samples=samples)
    assert 0.1 < summary["ap"] < 0.9
    assert replicates[0] == pytest.approx(summary["ap"], abs=1e-9)
    for sample, replicate in zip(samples, replicates, strict=True):
        again, _ = average_precision(*repeated(truth, guesses, sample))
        assert replicate == pytest.approx(again["ap"], abs=1e-9)


def test_measuring_leaves_the_detections_as_they_were():
    truth, guesses = truth_and_guesses()
    average_precision(truth, guesses)
    assert set(guesses[0]) == {"image_id", "category_id", "bbox", "score"}


def test_resamplings_depend_on_the_ids_alone():
    assert (resamplings([3, 5, 8]) == resamplings(np.array([3, 5, 8], dtype=np.int32))).all()
    assert (resamplings([3, 5, 8]) != resamplings([3, 5, 9])).any()
    assert resamplings([3, 5, 8], 7).shape == (7, 3)


def test_masks_survive_their_run_lengths():
    masks = torch.rand(2, 9, 13) < 0.5
    found = {
        "boxes": torch.tensor([[1.0, 2, 4, 8]] * 2),
        "scores": torch.ones(2),
        "labels": torch.ones(2),
        "masks": masks,
    }
    entries = coco_results(7, found)
    assert entries[0]["bbox"] == [1, 2, 3, 6]
    assert all((rle.decode(e["segmentation"]) == m.numpy()).all() for e, m in zip(entries, masks, strict=True))


def test_a_detector_agrees_with_itself():
    truth, guesses = truth_and_guesses()
    seen = [g for g in guesses if g["score"] >= 0.3]
    assert average_precision(as_truth(truth, guesses), seen)[0]["ap"] == pytest.approx(1)


# --- curves --------------------------------------------------------------------------------------------------------------


def line(bpp: list[float], metric: list[float], replicates: int = 5) -> Curve:
    bpp, metric = np.array(bpp), np.array(metric)
    return Curve("line", bpp, metric, np.tile(bpp, (replicates, 1)), np.tile(metric, (replicates, 1)))


ANCHOR = line([0.1, 0.2, 0.4, 0.8], [0.2, 0.3, 0.38, 0.42])


def test_bd_rates_that_are_known_by_hand():
    assert bd_rate(ANCHOR, ANCHOR).value == pytest.approx(0, abs=1e-9)
    points = list(zip(ANCHOR.bpp, ANCHOR.metric, strict=True))
    assert bd_rate(ANCHOR, points).value == pytest.approx(0, abs=1e-9) and np.isnan(bd_rate(ANCHOR, points).low)
    half = bd_rate(ANCHOR, line([0.05, 0.1, 0.2, 0.4], [0.2, 0.3, 0.38, 0.42]))
    assert (half.value, half.low, half.high, half.defined) == pytest.approx((-50, -50, -50, 1))
    assert bd_metric(ANCHOR, line([0.1, 0.2, 0.4, 0.8], [0.25, 0.35, 0.43, 0.47])).value == pytest.approx(0.05)


def test_a_gap_of_bd_rates_is_their_difference():
    half = line([0.05, 0.1, 0.2, 0.4], [0.2, 0.3, 0.38, 0.42])
    gap = bd_rate_gap((ANCHOR, half), (ANCHOR, ANCHOR))
    assert (gap.value, gap.low, gap.high, gap.defined) == pytest.approx((-50, -50, -50, 1))


def test_curves_that_do_not_overlap_have_no_bd_value():
    above = bd_rate(ANCHOR, line([0.1, 0.2, 0.4], [0.5, 0.6, 0.7]))
    beside = bd_metric(ANCHOR, line([1.0, 2.0, 4.0], [0.2, 0.3, 0.4]))
    assert np.isnan([above.value, above.low, beside.value, beside.high]).all()
    assert above.defined == beside.defined == 0


def test_a_dent_in_a_curve_does_not_count():
    dented = line([0.1, 0.2, 0.3, 0.4, 0.8], [0.2, 0.3, 0.25, 0.38, 0.42])
    assert bd_rate(ANCHOR, dented).value == pytest.approx(0, abs=1e-9)


def test_a_curve_averages_trainings_and_holds_each_at_the_settings_that_all_have():
    def record(lmbda: float, bpp: float, seed: int = 0) -> SimpleNamespace:
        values = {"bpp": bpp, "box_ap": {"judge": bpp / 2}}
        bootstrap = {"bpp": [bpp] * 3, "box_ap": {"judge": [bpp / 2] * 3}}
        recipe = SimpleNamespace(setting=lmbda, seed=seed, codec=SimpleNamespace(seed=seed))
        return SimpleNamespace(recipe=recipe, result=values, bootstrap=bootstrap)

    records = [record(0.04, 1.6), record(0.02, 0.8), record(0.02, 0.8, 1), record(0.01, 0.3), record(0.01, 0.5, 1)]
    found = curve(records, "box_ap", "judge")
    assert found.bpp == pytest.approx([0.4, 0.8, 1.6]) and found.metric == pytest.approx([0.2, 0.4, 0.8])
    assert found.metric_replicates.shape == (3, 3)
    assert {seed: list(c.bpp) for seed, c in found.trainings.items()} == {0: [0.3, 0.8], 1: [0.5, 0.8]}
    alone = curve([r for r in records if not r.recipe.seed], "box_ap", "judge")
    assert list(alone.trainings) == [0] and len(alone.trainings[0].bpp) == 3
    with pytest.raises(ValueError, match="no mask_ap of judge; it has box_ap, bpp"):
        curve(records, "mask_ap", "judge")


# --- end to end ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return datasets.load("scenes", "val", size=64, limit=4, root=tmp_path_factory.mktemp("scenes"))


class Oracle:
    """Recognises a picture by the original nearest to it, and answers with its annotations."""

    def __init__(self, dataset: coco.CocoDataset, masks: bool = True, score: float = 0.9) -> None:
        self.samples = list(dataset)
        self.categories, self.masks, self.score = dataset.categories, masks, score

    def detect(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        found = []
        for image in images:
            near = min(self.samples, key=lambda s: (s.image - image).square().mean())
            found.append(
                {"boxes": near.boxes, "labels": near.labels, "scores": torch.full((len(near.boxes),), self.score)}
            )
            if self.masks:
                found[-1]["masks"] = near.masks
        return found


def run(codec, dataset, judge):
    clean = clean_detections(dataset, judge, progress=False)
    return evaluate(codec, dataset, {"judge": judge}, {"judge": clean}, progress=False)


def test_an_evaluation_agrees_with_direct_computation(scenes):
    codec = Jpeg(30)
    result, bootstrap = run(codec, scenes, Oracle(scenes))
    coded = [codec.encode(s.image) for s in scenes]
    assert result["bpp"] == pytest.approx(8 * sum(map(len, coded)) / (4 * 64 * 64))
    x = torch.stack([s.image for s in scenes]).double()
    x_hat = torch.stack([codec.decode(data) for data in coded]).double()
    inside = torch.stack([s.object_mask for s in scenes]).bool().expand_as(x)
    for name, where in (("psnr", inside | ~inside), ("psnr_inside", inside), ("psnr_outside", ~inside)):
        assert result[name] == pytest.approx(-10 * (x - x_hat)[where].square().mean().log10().item(), abs=1e-4)
    for name in ("box_ap", "mask_ap", "agreement"):
        assert result[name]["judge"] == pytest.approx(1) and len(bootstrap[name]["judge"]) == 200
    assert len(bootstrap["bpp"]) == len(bootstrap["psnr_inside"]) == len(bootstrap["psnr_outside"]) == 200
    assert "bpp_likelihood" not in result


def test_thirds_by_object_cover_are_evaluations_of_their_own(tmp_path):
    dataset = datasets.load("scenes", "val", size=64, limit=30, root=tmp_path)
    result, bootstrap = run(Jpeg(30), dataset, Oracle(dataset))
    by_share = sorted(range(30), key=lambda i: dataset[i].object_mask.mean().item())
    for third, members in zip(THIRDS, (by_share[:10], by_share[10:20], by_share[20:]), strict=True):
        found = result["by_cover"][third]
        assert found["images"] == 10 and found["box_ap"]["judge"] == pytest.approx(1)
        assert found["object_share"] == pytest.approx(np.mean([dataset[i].object_mask.mean().item() for i in members]))
        sizes = [result["per_image"]["bytes"][i] for i in members]
        assert found["bpp"] == pytest.approx(8 * sum(sizes) / (10 * 64 * 64))
        assert len(bootstrap["by_cover"][third]["bpp"]) == len(bootstrap["by_cover"][third]["box_ap"]["judge"]) == 200
    shares = [result["by_cover"][third]["object_share"] for third in THIRDS]
    assert shares == sorted(shares)


def test_a_detector_without_clean_detections_is_judged_but_not_on_agreement(scenes):
    result, _ = evaluate(Jpeg(30), scenes, {"judge": Oracle(scenes)}, {}, progress=False)
    assert result["box_ap"]["judge"] == pytest.approx(1) and "agreement" not in result


def test_a_detector_of_boxes_gets_no_mask_ap_and_a_lossless_codec_a_finite_psnr(scenes):
    result, bootstrap = run(Png(), scenes, Oracle(scenes, masks=False))
    assert "box_ap" in result and "mask_ap" not in result and "mask_ap" not in bootstrap
    assert result["psnr"] == pytest.approx(120)


def test_masks_are_judged_where_detector_and_data_have_outlines_also_where_nothing_is_found(scenes, monkeypatch):
    judge = Oracle(scenes)
    blind = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0),
        "scores": torch.zeros(0),
        "masks": torch.zeros(0, 64, 64),
    }
    monkeypatch.setattr(judge, "detect", lambda images: [blind] * len(images))
    result, bootstrap = run(Jpeg(30), scenes, judge)
    assert result["mask_ap"] == result["box_ap"] == {"judge": 0} and bootstrap["mask_ap"]["judge"] == [0] * 200
    monkeypatch.setattr(coco.CocoDataset, "outlined", False)
    assert "mask_ap" not in run(Jpeg(30), scenes, Oracle(scenes))[0]


def test_without_objects_there_is_no_ap(scenes, monkeypatch):
    judge = Oracle(scenes)
    monkeypatch.setattr(scenes, "_objects", {i: [] for i in scenes.ids})
    result, bootstrap = run(Jpeg(30), scenes, judge)
    assert not {"box_ap", "psnr_inside"} & (result.keys() | bootstrap.keys())
    assert result["agreement"]["judge"] == pytest.approx(1)


def test_agreement_is_about_the_categories_that_the_data_set_lists():
    truth, guesses = truth_and_guesses()
    listed = as_truth(truth, [*guesses, {**guesses[0], "category_id": 3, "score": 0.9}])
    assert {item["category_id"] for item in listed["annotations"]} == {1, 2}


def test_a_detector_that_is_sure_of_nothing_has_no_agreement(scenes):
    result, bootstrap = run(Jpeg(30), scenes, Oracle(scenes, score=0.2))
    assert "box_ap" in result and "agreement" not in result and "agreement" not in bootstrap


def test_a_detector_must_know_every_annotated_category(scenes):
    judge = Oracle(scenes)
    judge.categories = {}
    with pytest.raises(formats.DataError, match="judge does not know this category"):
        evaluate(Jpeg(30), scenes, {"judge": judge}, {"judge": []}, progress=False)


@pytest.mark.parametrize(
    ("name", "weights", "size"), [("mean-scale-small", "default", (64, 128)), ("tcm-tiny", None, (128, 256))]
)
def test_a_rate_map_holds_every_bit_that_the_likelihoods_promise(name, weights, size):
    torch.manual_seed(0)
    codec, x = zoo.load(name, weights=weights).eval(), torch.rand(3, *size)
    assert rate_map(codec, x).sum().item() == pytest.approx(likelihood_bits(codec, x), rel=1e-5)
    assert rate_map(codec, x[:, :50, :70]).shape == (1, 50, 70)


@pytest.mark.parametrize(
    ("name", "how"),
    [("mean-scale-small", {}), ("bmshj2018-hyperprior", {"quality": 1, "weights": None})]
    + [(name, {"weights": None}) for name in ("tcm-tiny", "elic-small")],
)
def test_coding_tells_the_bits_that_the_likelihoods_promise(name, how):
    torch.manual_seed(0)
    codec, bits = zoo.load(name, **how).eval(), []
    codec.update(force=True)
    images = [torch.rand(3, 128, 192), torch.rand(3, 70, 100)]
    list(container.encode_many(codec, images, bits=bits))
    assert bits == pytest.approx([likelihood_bits(codec, x) for x in images], rel=1e-4)


class Halves(torch.nn.Module):
    """Pays four bits for each 16-pixel cell in the left half of a picture, one in the right half."""

    downsampling_factor = 16

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        likelihoods = torch.full((1, 1, x.shape[2] // 16, x.shape[3] // 16), 0.5)
        likelihoods[..., : likelihoods.shape[3] // 2] = 1 / 16
        return {"x_hat": x, "likelihoods": {"y": likelihoods}}


def test_spending_tells_found_objects_from_missed_ones_and_from_the_rest():
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    masks[0, :32, :32] = masks[1, :16, 32:48] = masks[2, 48:, 48:] = True  # found, missed, a crowd
    boxes = torch.tensor([[0.0, 0, 32, 32], [32, 0, 48, 16], [48, 48, 64, 64]])
    crowd = torch.tensor([False, False, True])
    sample = coco.Sample(torch.rand(3, 64, 64), boxes, torch.tensor([1, 1, 2]), masks, crowd, 7, "one")

    class Pictures(list):
        ids = (7, 8)

        def lacks(self, name):
            return () if name == 7 else ("outlines",)

    seen = {"image_id": 7, "category_id": 1, "bbox": [0, 0, 30, 32], "score": 0.4}
    unsure, other = seen | {"bbox": [32, 0, 16, 16], "score": 0.2}, seen | {"bbox": [32, 0, 16, 16], "category_id": 2}
    result, bootstrap = spending(Halves(), Pictures([sample, None]), {"judge": [seen, unsure, other]}, progress=False)
    assert (result["images"], result["found"]["judge"], result["missed"]["judge"]) == (1, 1, 1)
    assert result["bpp"] == pytest.approx(2.5 / 256)
    assert result["bpp_found"]["judge"] == pytest.approx(4 / 256)
    assert result["missed_to_found"]["judge"] == pytest.approx(1 / 4)
    assert result["bpp_background"]["judge"] == pytest.approx((4 * 4 + 6) / 10 / 256)
    assert bootstrap["missed_to_found"]["judge"] == pytest.approx([1 / 4] * 200)


def test_where_outlines_are_missing_no_measure_of_masks_is_taken(scenes, monkeypatch):
    bare = {i: [{**item, "segmentation": None} for item in objects] for i, objects in scenes._objects.items()}
    first, *others = scenes.ids
    judge, shown = Oracle(scenes), [others[0], others[2]]
    boxes, _ = run(Jpeg(30), scenes, judge)
    monkeypatch.setattr(scenes, "_objects", {i: scenes._objects[i] if i in shown else bare[i] for i in scenes.ids})
    result, bootstrap = run(Jpeg(30), scenes, judge)
    assert [scenes.lacks(i) for i in (first, shown[0])] == [("outlines",), ()] and not scenes.outlined
    assert result["bpp"] == boxes["bpp"] != result["bpp_outlined"] and result["psnr"] == pytest.approx(boxes["psnr"])
    assert "box_ap_small" not in result and result["box_ap"] == boxes["box_ap"]
    monkeypatch.setattr(scenes, "ids", shown)
    monkeypatch.setattr(scenes, "_objects", {i: scenes._objects[i] for i in shown})
    alone, _ = run(Jpeg(30), scenes, judge)
    for name in ("psnr_inside", "psnr_outside", "object_share", "mask_ap"):
        assert result[name] == alone[name]
    assert result["bpp_outlined"] == alone["bpp"] and len(bootstrap["mask_ap"]["judge"]) == 200


class Painter:
    """Names every pixel of a picture as its outlines say, a third of the time as something else."""

    def __init__(self, dataset: coco.CocoDataset) -> None:
        self.classes = {label: k for k, label in enumerate(sorted(dataset.used_categories()), start=1)}
        self.categories, self.truth = dataset.categories, iter([semantic.truth(s, self.classes) for s in dataset])

    def semantic(self, images: list[torch.Tensor]) -> list[np.ndarray]:
        (drawn,) = [next(self.truth).clip(0)]
        drawn[:20] = 0
        return [drawn]


def test_a_judge_that_names_pixels_alone_is_measured_by_the_mean_iou_of_its_classes(scenes):
    judge = Painter(scenes)
    result, bootstrap = evaluate(Png(), scenes, {"painter": judge}, {}, progress=False)
    truth = np.stack([semantic.truth(s, judge.classes) for s in scenes])
    guess = truth.clip(0)
    guess[:, :20] = 0
    known = truth >= 0
    ious = [
        ((truth == k) & (guess == k)).sum() / (((truth == k) | (guess == k)) & known).sum()
        for k in range(len(judge.classes) + 1)
        if (truth == k).any()
    ]
    assert result["miou"]["painter"] == pytest.approx(np.mean(ious)) and "box_ap" not in result
    assert len(bootstrap["miou"]["painter"]) == 200


def test_where_every_picture_lacks_some_outline_nothing_that_asks_for_them_is_measured(scenes, monkeypatch):
    judges = {"painter": Painter(scenes), "judge": Oracle(scenes)}
    half = {i: [{**objects[0], "segmentation": None}, *objects[1:]] for i, objects in scenes._objects.items()}
    monkeypatch.setattr(scenes, "_objects", half)
    result, _ = evaluate(Jpeg(30), scenes, judges, {}, progress=False)
    assert {scenes.lacks(i) for i in scenes.ids} == {("outlines",)} and result["box_ap"]["judge"] > 0.9
    assert not {"object_share", "bpp_outlined", "psnr_inside", "psnr_outside", "mask_ap", "miou"} & result.keys()
