"""Panoptic quality against its definition, by hand and on COCO's own samples; what two Panoptic-DeepLabs learn and find."""

import json
import pickle
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from icm_helpers import evaluate
from icm_helpers.codecs.classical import Jpeg, Png
from icm_helpers.data import coco, datasets, formats
from icm_helpers.panoptic import Panoptic, quality, scores, tally
from icm_helpers.tasks import models, training
from icm_helpers.tasks.detectron2 import CityscapesPanopticDeepLab
from icm_helpers.tasks.panoptic_deeplab import PanopticDeepLab

CATEGORIES = {1: "disc", 4: "star", 9: "paper"}


def halves(*ids: int, **crowd: int) -> Panoptic:
    """A picture of 4 x 8 pixels whose columns belong to these segments in equal shares: 1 and 2 are cats, 3 is grass, 0 is void."""
    columns = np.repeat(ids, 8 // len(ids))
    kinds = {1: 7, 2: 7, 3: 8}
    segments = [
        {"id": i, "category_id": kinds[i], "iscrowd": int(crowd.get("crowd") == i)} for i in sorted(set(ids)) if i
    ]
    return Panoptic(np.tile(columns, (4, 1)).astype(np.int32), segments)


def by_definition(truth: Panoptic, guess: Panoptic, category: int) -> list[float]:
    """Sum of IoU, TP, FP, FN, pixel set by pixel set."""

    def regions(map_, crowd):
        return [
            set(np.flatnonzero(map_.ids == s["id"]))
            for s in map_.segments
            if s["category_id"] == category and bool(s.get("iscrowd")) == crowd
        ]

    void = set(np.flatnonzero(~np.isin(truth.ids, [s["id"] for s in truth.segments])))
    crowd = set().union(*regions(truth, True))
    real, said = regions(truth, False), regions(guess, False)
    ious = np.array([[len(r & s) / len((r | s) - (void - r)) for s in said] for r in real]).reshape(
        len(real), len(said)
    )
    match = ious > 0.5
    wrong = [len(s & (void | crowd)) <= len(s) / 2 for s, hit in zip(said, match.any(0), strict=True) if not hit]
    return [ious[match].sum(), match.sum(), sum(wrong), (~match.any(1)).sum()]


def test_a_perfect_map_has_quality_one_and_an_empty_one_zero():
    truth, nothing = halves(1, 2, 3, 3), Panoptic(np.zeros((4, 8), np.int32), [])
    assert quality(tally(truth, truth, [7, 8])).tolist() == [1, 1, 1]
    assert tally(truth, nothing, [7, 8])[:, 3].tolist() == [2, 1] and not quality(tally(truth, nothing, [7, 8])).any()


def test_a_thing_cut_in_halves_is_two_errors_and_one_miss():
    counts = tally(halves(1, 1, 3, 3), halves(1, 2, 3, 3), [7, 8])
    assert counts.tolist() == [[0, 0, 2, 1], [1, 1, 0, 0]]  # IoU one half is not above one half
    assert quality(counts).tolist() == [0.5, 0.5, 0.5]


def test_void_is_nobodys_mistake():
    assert tally(halves(1, 0, 3, 3), halves(1, 1, 3, 3), [7, 8])[0].tolist() == [1, 1, 0, 0]  # it leaves the union
    assert tally(halves(0, 0, 3, 3), halves(1, 1, 3, 3), [7, 8])[0].tolist() == [0, 0, 0, 0]  # all of it is excused
    assert tally(halves(3, 0, 3, 3), halves(1, 1, 3, 3), [7, 8])[0].tolist() == [0, 0, 1, 0]  # half of it is not enough


def test_a_crowd_is_neither_found_nor_missed_and_excuses_its_own_category_only():
    crowd = halves(1, 1, 3, 3, crowd=1)
    assert tally(crowd, halves(2, 2, 3, 3), [7, 8])[0].tolist() == [0, 0, 0, 0]
    assert tally(crowd, halves(3, 3, 0, 0), [7, 8])[1].tolist() == [0, 0, 1, 1]


@pytest.fixture
def coco_panoptic(real_data):
    folder = real_data / "coco_panoptic_sample" / "sample_data"
    return coco.PanopticTruth(folder / "panoptic_examples.json", folder / "panoptic_examples")


def test_the_tally_is_the_definitions_on_cocos_own_samples(coco_panoptic):
    entries = json.loads(coco_panoptic.annotations.read_text())["annotations"]
    seen = Counter()
    for entry in entries:
        truth = coco_panoptic[entry["image_id"]]
        assert [int((truth.ids == s["id"]).sum()) for s in truth.segments] == [s["area"] for s in truth.segments]
        guess = Panoptic(  # the same map, shifted by a few pixels, without crowds and with two segments confused
            np.roll(truth.ids, (5, 9), (0, 1)), [{**s, "iscrowd": 0} for s in truth.segments]
        )
        guess.segments[0]["category_id"], guess.segments[1]["category_id"] = (
            s["category_id"] for s in guess.segments[1::-1]
        )
        categories = sorted(coco_panoptic.categories)
        counts = tally(truth, guess, categories)
        for category, found in zip(categories, counts, strict=True):
            assert found == pytest.approx(by_definition(truth, guess, category))
        seen.update(dict(zip(("tp", "fp", "fn"), counts[:, 1:].sum(0).tolist(), strict=True)))
    assert min(seen.values()) > 0 and len(seen) == 3


def test_a_replicate_is_the_quality_of_the_images_that_it_drew():
    maps = [halves(1, 1, 3, 3), halves(1, 2, 3, 3), halves(3, 3, 3, 2), halves(1, 2, 0, 0)]
    tallies = np.stack([tally(halves(1, 2, 3, 3), guess, [7, 8]) for guess in maps])
    value, replicates = scores(tallies, np.array([True, False]), np.array([[0, 1, 2, 3], [1, 1, 1, 1], [0, 0, 3, 2]]))
    assert replicates["pq"][0] == value["pq"] and replicates["pq"][1] == 1.0
    assert replicates["sq"][2] == quality(tallies[[0, 0, 3, 2]].sum(0))[1]
    assert value["pq"] == pytest.approx((value["pq_things"] + value["pq_stuff"]) / 2)


# --- the network ---------------------------------------------------------------------------------------------------------


def target(*squares: tuple[int, int, int, int]) -> dict[str, torch.Tensor]:
    """A picture of 64 x 64 pixels of paper with squares on it: top, left, side, category."""
    semantic, masks = torch.full((64, 64), 9), torch.zeros(len(squares), 64, 64, dtype=torch.uint8)
    for mask, (top, left, side, category) in zip(masks, squares, strict=True):
        mask[top : top + side, left : left + side] = 1
        semantic[top : top + side, left : left + side] = category
    return {"semantic": semantic, "masks": masks}


class Exact(PanopticDeepLab):
    """Heads that say the truth of one picture."""

    def learn(self, truth: dict[str, torch.Tensor]) -> "Exact":
        classes, _, heat, offset, _ = self._targets(truth["semantic"], truth["masks"])
        self.told = (
            20 * torch.nn.functional.one_hot(classes, 3).permute(2, 0, 1)[None].float(),
            heat[None, None],
            offset[None],
        )
        return self

    def maps(self, images):
        return self.told


def test_true_heads_give_the_true_map():
    truth = target((4, 4, 21, 1), (30, 34, 13, 1), (30, 47, 13, 4))  # two of them touch
    (found,) = Exact(CATEGORIES, [1, 4], size=64).learn(truth).panoptic([torch.rand(3, 64, 64)])
    assert sorted((s["category_id"], s["isthing"]) for s in found.segments) == [(1, 1), (1, 1), (4, 1), (9, 0)]
    detections = found.detections()
    masks = {m.numpy().tobytes() for m in detections["masks"]}
    assert masks == {m.bool().numpy().tobytes() for m in truth["masks"]}
    assert sorted(detections["boxes"].tolist()) == [[4, 4, 25, 25], [34, 30, 47, 43], [47, 30, 60, 43]]
    assert (detections["scores"] > 0.99).all()


def test_pixels_of_a_thing_without_centre_stay_void_and_so_does_too_little_stuff():
    model = Exact(CATEGORIES, [1, 4], size=1024).learn(
        target((0, 0, 63, 1))
    )  # 127 pixels of paper, where 2048 are asked for
    model.told = model.told[0], torch.zeros(1, 1, 64, 64), model.told[2]
    (found,) = model.panoptic([torch.rand(3, 64, 64)])
    assert not found.segments and not found.ids.any() and found.detections()["boxes"].shape == (0, 4)


def test_training_learns_a_picture_by_heart():
    model = PanopticDeepLab(CATEGORIES, [1, 4], size=64)
    truth = [target((4, 4, 22, 1), (36, 30, 16, 4)), target()]  # the second shows no thing
    images = [torch.rand(3, 64, 64) * 0.1 + t["semantic"] / 12 for t in truth]
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    model.train()
    for _ in range(60):
        losses = model(images, truth)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
    assert set(losses) == {"semantic", "centre", "offset"} and sum(losses.values()) < 1
    first, second = (sorted(s["category_id"] for s in found.segments) for found in model.panoptic(images))
    assert first == [1, 4, 9] and second == [9]


def test_labels_that_it_does_not_know_are_an_error():
    model = PanopticDeepLab(CATEGORIES, [1, 4])
    for label in (3, 10):
        wrong = target() | {"semantic": torch.full((64, 64), label)}
        with pytest.raises(ValueError, match=rf"labels \[{label}\] are not all among the categories \[1, 4, 9\]"):
            model([torch.rand(3, 64, 64)], [wrong])
    with pytest.raises(ValueError, match=r"ids from 1, things among them"):
        PanopticDeepLab(CATEGORIES, [2])


def test_saving_and_loading_keeps_the_map_of_a_picture_of_any_size(tmp_path):
    model = PanopticDeepLab(CATEGORIES, [1, 4])
    model.save(tmp_path / "a.safetensors")
    first = PanopticDeepLab.from_weights(tmp_path / "a.safetensors")
    first.save(tmp_path / "b.safetensors")
    second, image = PanopticDeepLab.from_weights(tmp_path / "b.safetensors"), torch.rand(3, 50, 70)
    (a,), (b,) = first.panoptic([image]), second.panoptic([image])
    assert a.ids.shape == (50, 70) and (a.ids == b.ids).all() and a.segments == b.segments
    assert second.isthing.tolist() == [True, True, False] and second.categories == CATEGORIES
    assert (tmp_path / "a.safetensors").stat().st_size < 2_000_000


# --- a data set ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def scenes(tmp_path):
    return datasets.load("scenes", "train", size=64, limit=3, root=tmp_path)


def test_pictures_mirror_the_category_of_every_pixel_with_the_masks(scenes, tmp_path):
    for dataset in (scenes, training.Decoded(scenes, Png(), tmp_path / "decoded", progress=False)):
        for _, truth in (training.Pictures(dataset, seed=0, length=9, semantic=True)[i] for i in range(9)):
            for mask, label in zip(truth["masks"].bool(), truth["labels"], strict=True):
                assert (truth["semantic"][mask] == label).all()


class Truthful:
    """Says the truth of every picture that it has seen, of others nothing."""

    def __init__(self, dataset):
        self.categories = dataset.panoptic.categories
        self.known = {s.image.numpy().tobytes(): dataset.panoptic[s.image_id] for s in dataset}

    def panoptic(self, images):
        truths = [self.known.get(i.numpy().tobytes(), Panoptic(np.zeros(i.shape[1:], np.int32), [])) for i in images]
        return [
            Panoptic(t.ids, [{**s, "isthing": int(s["category_id"] <= 6), "score": 0.9} for s in t.segments])
            for t in truths
        ]


def test_an_evaluation_states_panoptic_quality_and_its_replicates(scenes):
    judge = {"truthful": Truthful(scenes)}
    result, bootstrap = evaluate.evaluate(Png(), scenes, judge, {}, progress=False)
    for name in ("pq", "sq", "rq", "pq_things", "pq_stuff"):
        assert result[name]["truthful"] == 1 and bootstrap[name]["truthful"] == [1] * 200
    assert result["mask_ap"]["truthful"] == pytest.approx(1)
    assert evaluate.evaluate(Jpeg(20), scenes, judge, {}, progress=False)[0]["pq"]["truthful"] == 0


def test_the_shipped_panoptic_deeplab_judges_panoptic_maps_and_no_classes(scenes):
    judge = {"judge": models.load("panoptic-deeplab-scenes")}  # its network has a part called semantic
    result, _ = evaluate.evaluate(Png(), scenes, judge, {}, progress=False)
    assert 0 < result["pq"]["judge"] < 1 and "miou" not in result


def test_a_picture_without_a_panoptic_map_is_named(scenes, tmp_path):
    with pytest.raises(formats.DataError, match=r"panoptic.json has no panoptic map of image 77"):
        scenes.panoptic[77]
    with pytest.raises(formats.DataError, match=r"panoptic maps need .*none.json"):
        coco.PanopticTruth(tmp_path / "none.json", tmp_path)


def test_the_shipped_panoptic_deeplab_sees_what_scenes_show():
    dataset = datasets.load("scenes", "val", limit=20)
    judge = models.load(models.fingerprinted("panoptic-deeplab-scenes"))
    tallies = [evaluate.panoptic_tally(dataset.panoptic, s.image_id, judge.panoptic([s.image])[0]) for s in dataset]
    assert quality(np.sum(tallies, 0))[0] > 0.75


# --- detectron2 ----------------------------------------------------------------------------------------------------------


class Network(torch.nn.Module):
    """What the adapter uses of detectron2's `PanopticDeepLab`: half a picture of road, nothing, one car."""

    device = torch.device("cpu")

    def forward(self, batch):
        (self.given,) = batch
        labels = torch.full((self.given["height"], self.given["width"]), -1)
        labels[:, : self.given["width"] // 2] = 0  # road, of which there is one
        labels[2:5, -6:-2] = 13_001  # the first car
        logits = torch.zeros(19, *labels.shape)
        logits[0] = 20
        return [
            {
                "panoptic_seg": (labels, None),
                "sem_seg": logits,
                "instances": SimpleNamespace(scores=torch.tensor([0.625])),
            }
        ]


def test_detectron2s_labels_become_cityscapes_segments_and_detections():
    model = CityscapesPanopticDeepLab(Network(), size=(32, 64))
    (found,) = model.panoptic([torch.ones(3, 20, 40)])
    given = model.model.given
    assert given["image"].shape == (3, 32, 64) and (given["image"] == 255).all()
    road, car = found.segments
    assert (road["category_id"], road["isthing"], car["category_id"], car["isthing"]) == (7, 0, 26, 1)
    assert road["score"] > 0.99 and car["score"] == 0.625
    assert (found.ids == road["id"]).sum() == 400 and (found.ids == 0).sum() == 400 - 12
    (detected,) = model.detect([torch.ones(3, 20, 40)])
    assert detected["boxes"].tolist() == [[34, 2, 38, 5]] and detected["labels"].tolist() == [26]
    with pytest.raises(ValueError, match=r"takes \(3, H, 2 H\), as Cityscapes has"):
        model.panoptic([torch.ones(3, 20, 30)])


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The real package's network with random weights, through a file like the project's."""
    reason = "detectron2 has no packages: environment.yml compiles it"
    build_model = pytest.importorskip("detectron2.modeling", reason=reason).build_model
    torch.manual_seed(0)
    network = build_model(CityscapesPanopticDeepLab.settings())
    path = tmp_path_factory.mktemp("project") / "weights.pkl"
    path.write_bytes(pickle.dumps({"model": {k: v.numpy() for k, v in network.state_dict().items()}}, protocol=2))
    model = CityscapesPanopticDeepLab.from_weights(path)
    path.unlink()
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in model.model.state_dict().items())
    model.size = (512, 1024)  # a quarter of the work
    return model


def test_the_real_panoptic_deeplab_names_pixels_in_cityscapes_ids(real):
    (found,) = real.panoptic([torch.rand(3, 64, 128)])
    assert found.ids.shape == (64, 128) and set(np.unique(found.ids)) - {0} == {s["id"] for s in found.segments}
    assert {s["category_id"] for s in found.segments} <= set(real.categories) and len(real.categories) == 19
    assert all(0 <= s["score"] <= 1 for s in found.segments if not s["isthing"])
    assert not real.training and not any(p.requires_grad for p in real.parameters())


@pytest.mark.parametrize(
    ("missing", "told"), [("detectron2", "detectron2 \\("), ("panopticapi", "panopticapi for detectron2")]
)
def test_the_package_that_is_missing_is_named(missing, told, monkeypatch):
    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.startswith("detectron2"):
                raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    for name in [name for name in sys.modules if name.startswith("detectron2")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=f"needs the package {told}.*environment.yml"):
        CityscapesPanopticDeepLab.settings()


def test_a_missing_file_says_how_to_fetch_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no.pkl is missing: fetch it with"):
        CityscapesPanopticDeepLab.from_weights(tmp_path / "no.pkl")
