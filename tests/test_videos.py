"""Videos as runs of the ledger: edges, files, what is judged, and what is said over several clips."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import max_pool2d

from icm_helpers import chapters, evaluate_video, files, overfit, run
from icm_helpers.bd import bd_metric
from icm_helpers.chapters.sa_nerv import EDGES, PLAIN, SMOKE, TRUTH, VIDEOS, VIDEOS_DAVIS, VIDEOS_PAPER
from icm_helpers.codecs import nerv
from icm_helpers.data import datasets, downloads, video
from icm_helpers.evaluate_video import edge_matches, f_score
from icm_helpers.ledger import queries, results, verdicts
from icm_helpers.ledger.recipe import Accuracy, Clip, Overfitted, Recipe, flat
from icm_helpers.ledger.results import Record
from icm_helpers.tasks import models, sam

CHAPTER = chapters.named("sa_nerv")
STUDIES = [s for found in CHAPTER.presets.values() for s in found]  # of every preset, those that are not measured too
NERV, EDGED = (next(r for r in SMOKE.recipes() if r.loss == loss) for loss in (PLAIN, EDGES))
QUIET = {"device": "cpu", "progress": False}


def changed(recipe: Recipe, **codec) -> Recipe:
    return replace(recipe, codec=replace(recipe.codec, **codec))


@pytest.fixture
def clip():
    return run.clip(NERV)


@pytest.fixture
def scratch(monkeypatch, tmp_path):
    """Runs and caches go to a folder of this test."""
    monkeypatch.setattr(run, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    return tmp_path


@pytest.fixture
def segmenter(monkeypatch, tmp_path):
    """A segmenter that finds the left half of every frame, and surely; it counts the frames it sees."""
    weights, seen = tmp_path / "nano-sam.safetensors", []
    weights.write_bytes(b"weights")
    nano = replace(models.MODELS["nano-sam"], file=lambda: weights, fingerprint=files.fingerprint(weights))
    monkeypatch.setitem(models.MODELS, "nano-sam", nano)
    monkeypatch.setattr(sam, "present", lambda *_: weights)
    monkeypatch.setattr(sam, "load", lambda *_, **__: torch.nn.Identity())

    def every_mask(model, image, **passed):
        seen.append(image)
        left = torch.zeros(image.shape[1:], dtype=torch.bool)
        left[:, : image.shape[2] // 2] = True
        counts = sam._compressed({"size": list(left.shape), "counts": [0, int(left.sum()), int((~left).sum())]})
        return [{"rle": counts, "predicted_iou": 0.99, "stability_score": 0.9}]

    monkeypatch.setattr(sam, "every_mask", every_mask)
    return seen


@pytest.fixture
def edged(segmenter) -> Recipe:
    """A recipe with the edges of that segmenter."""
    return changed(EDGED, loss=replace(EDGES, segmenter=models.fingerprinted("nano-sam")))


@pytest.mark.parametrize("study", STUDIES, ids=lambda s: s.name)
def test_networks_of_a_study_differ_in_clip_size_loss_and_seed_alone(study):
    recipes = study.recipes()
    assert len({r.run_id for r in recipes}) == len(recipes)
    free = {"clip", "codec", "lmbda", "loss", "seed", "edges", "alpha", "mask_weight"}
    trained = [{k: v for k, v in flat(r).items() if k not in free} for r in recipes if r.kind == "trained"]
    assert all(recipe == trained[0] for recipe in trained)
    assert trained[0]["steps"] * study.batch == study.epochs * study.frames


def test_true_edges_run_along_the_masks_and_nowhere_else(clip):
    found = TRUTH.frames_region(clip, NERV.pictures)
    assert found.shape == (2, 1, 64, 64) and PLAIN.frames_region(clip, NERV.pictures) is None
    for edges, masks in zip(found, clip.masks, strict=True):
        grown = max_pool2d(masks.any(0, keepdim=True).float(), 3, 1, 1)
        inner = 1 - max_pool2d(1 - masks.float(), 3, 1, 1)  # (n, H, W): a pixel away from each object's own outline
        assert edges.sum() > 20
        assert (edges <= grown).all() and (edges * inner).sum() == 0


def test_segment_anything_sees_a_frame_once(clip, scratch, segmenter, edged):
    def edges(loss):
        return loss.frames_region(clip, NERV.pictures, progress=False)

    first, again = edges(edged.loss), edges(edged.loss)
    assert len(segmenter) == 2 and torch.equal(first, again)
    columns = first.any(0).any(1)[0].nonzero().flatten().tolist()
    assert columns and set(columns) <= {31, 32}
    assert edges(replace(edged.loss, alpha=0.995)).sum() == 0 and len(segmenter) == 2
    with pytest.raises(ValueError, match="other weights"):
        edges(replace(edged.loss, segmenter="nano-sam@12345678"))


def test_sa_nerv_trains_on_the_edges_of_segment_anything(scratch, segmenter, edged):
    data = run.coded(edged, **QUIET)
    plain = run.coded(changed(edged, loss=PLAIN), **QUIET)
    assert len(segmenter) == 2 and data != plain
    assert run.decoded(edged, data).shape == (2, 3, 64, 64)


def test_a_clip_that_was_coded_is_not_trained_again(scratch, monkeypatch):
    data = run.coded(NERV, **QUIET)
    assert run.places(NERV)[1].read_bytes() == data
    assert not list(scratch.rglob("*.ckpt"))
    monkeypatch.setattr(overfit, "overfit", None)
    assert run.coded(NERV) == data


def test_a_network_need_not_be_trained_after_pruning():
    untuned = changed(NERV, density=1.0, tune_steps=0)
    data = run.coded(untuned, keep=False, **QUIET)
    assert run.decoded(untuned, data).shape == (2, 3, 64, 64)


def test_an_interrupted_training_goes_on_to_the_same_file(scratch, monkeypatch):
    whole, prune = run.coded(NERV, keep=False, **QUIET), nerv.prune
    monkeypatch.setattr(nerv, "prune", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run.coded(NERV, **QUIET)
    monkeypatch.setattr(nerv, "prune", prune)
    assert run.coded(NERV, **QUIET) == whole


def test_what_pruning_leaves_is_counted_whatever_its_values(scratch):
    def counted(recipe) -> float:
        """Weights, by the papers' count of the file's bits."""
        result = run.measure(replace(recipe, measured=Accuracy(())), ledger=False, **QUIET).result
        return result["bpp_counted"] * 2 * 64 * 64 / recipe.codec.bits

    total, kept = sum(p.numel() for p in run.start(NERV).parameters()), counted(NERV)
    assert NERV.codec.density < kept / total < NERV.codec.density + 0.05  # biases and the head are never pruned
    assert counted(changed(NERV, density=1.0)) == pytest.approx(total, rel=1e-4)


def test_the_original_frames_have_nothing_to_lose(clip):
    class Oracle:
        """Finds what is there, in the order of the frames."""

        categories = clip.categories

        def __init__(self):
            self.k = 0

        def detect(self, images):
            boxes, labels = clip.boxes[self.k], clip.labels[self.k]
            self.k += 1
            return [{"boxes": boxes, "scores": torch.ones(len(boxes)), "labels": labels}]

    result, bootstrap = evaluate_video.evaluate(clip, clip.frames, {"oracle": Oracle()})
    assert (result["psnr"], result["boundary_f"], result["frames"], result["pixels"]) == (120, 1, 2, 64 * 64)
    assert result["box_ap"]["oracle"] == pytest.approx(1) and len(bootstrap["box_ap"]["oracle"]) == 200
    worse, _ = evaluate_video.evaluate(clip, (clip.frames + 0.1 * clip[0].object_mask).clamp(0, 1), {})
    assert worse["psnr_inside"] < 25 < worse["psnr_outside"]


def test_a_detector_that_knows_other_categories_is_refused(clip):
    class Stranger:
        categories = {1: "zebra"}  # noqa: RUF012

    with pytest.raises(ValueError, match="which stranger does not know"):
        evaluate_video.evaluate(clip, clip.frames, {"stranger": Stranger()})


def test_edges_may_be_one_pixel_off_and_count_on_objects_only():
    x = torch.zeros(3, 32, 32)
    x[:, 8:24, 8:24] = 1
    mask = x[:1]
    assert f_score(edge_matches(x, x.roll(1, 2), mask)) == 1
    assert 0.3 < f_score(edge_matches(x, x.roll(4, 2), mask)) < 0.9
    assert f_score(edge_matches(x, torch.zeros_like(x), mask)) == 0
    elsewhere = x.clone()
    elsewhere[:, 28:30, 2:30] = 1
    assert edge_matches(x, elsewhere, mask) == edge_matches(x, x, mask)


def record(loss, clip: str, channels: int, bpp: float, ap: float) -> Record:
    """A record of a clip; its AP has an error that all methods share, as the frames of a clip do."""
    noise = np.random.default_rng(int(clip)).normal(0, 0.1, 200)
    codec = Overfitted(f"nerv-{channels}", loss, channels, 1, 1, 1e-3)
    recipe = Recipe("sa_nerv", Clip("scenes-video", clip, 2, 64), codec, Accuracy(("judge",)))
    return Record(recipe, {"bpp": bpp, "box_ap": {"judge": ap}}, {"box_ap": {"judge": (ap + noise).tolist()}}, {})


def ladder(loss, gains: dict[str, float]) -> list[Record]:
    return [
        record(loss, clip, n, 0.1 * n, 0.1 * n + int(clip) / 10 + gain)
        for clip, gain in gains.items()
        for n in (1, 2, 3)
    ]


def test_clips_are_drawn_together_for_all_methods():
    """A gain that is the same on every clip has no spread, however different the clips are."""
    names = [str(i) for i in range(6)]
    records = ladder(PLAIN, dict.fromkeys(names, 0.0)) + ladder(EDGES, dict.fromkeys(names, 0.05))
    curves = queries.curves(records, "box_ap", "judge")
    assert curves["nerv"].metric == pytest.approx([0.35, 0.45, 0.55])
    assert curves["nerv"].metric_replicates[:, 0].std() > 0.05
    gain = bd_metric(curves["nerv"], curves["sa-nerv"])
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.05, 0.05, 0.05))


@pytest.mark.parametrize(
    ("wins", "value", "verdict"), [(6, 0.5, "reproduced"), (5, 1 / 3, "not decided"), (0, -0.5, "contradicted")]
)
def test_a_majority_counts_videos(wins, value, verdict):
    gains = {str(i): 0.02 if i < wins else -0.02 for i in range(6)}
    records = ladder(PLAIN, dict.fromkeys(gains, 0.0)) + ladder(EDGES, gains)
    found = {f.claim.id: f for f in verdicts.findings(CHAPTER.claims, "scenes-video", records)}
    assert found["sa-nerv/1a"].interval.value == pytest.approx(value)
    assert found["sa-nerv/1a"].verdict == verdict
    assert "of the videos" in verdicts.describe(found["sa-nerv/1a"])
    assert found.keys() == {"sa-nerv/1a", "sa-nerv/1b"}


def test_runs_on_fewer_clips_are_not_averaged_with_others():
    records = ladder(PLAIN, {"1": 0.0, "2": 0.0}) + ladder(EDGES, {"1": 0.0})
    with pytest.raises(ValueError, match="made on 1 clips, others on 2"):
        queries.curves(records, "box_ap", "judge")


def test_a_claim_without_records_is_not_measured():
    records = ladder(PLAIN, {"1": 0.0, "2": 0.0})
    findings = verdicts.findings(CHAPTER.claims, "scenes-video", records)
    assert findings == []
    for told in (
        verdicts.cards(CHAPTER.claims, findings).count("not measured**"),
        verdicts.unreproduced(CHAPTER.claims, findings).count("not measured"),
        sum(row["verdict"] == "not measured" for row in verdicts.rows(CHAPTER.claims, findings)),
    ):
        assert told == len(CHAPTER.claims)


@pytest.mark.parametrize("fetched", [False, True])
def test_davis_is_halved_with_its_boxes_and_masks(fetched, real_data, monkeypatch, tmp_path):
    if fetched:  # where `icm datasets fetch davis2016` unpacks it
        monkeypatch.setattr(downloads, "DATA", tmp_path)
        monkeypatch.setenv("ICM_REAL_DATA", str(tmp_path / "none"))
        (tmp_path / "davis2016").mkdir()
        (tmp_path / "davis2016" / "DAVIS").symlink_to(real_data / "davis2016")
    dog = datasets.clip("davis", VIDEOS_DAVIS.clips[0], 2)
    assert dog.frames.shape == (2, 3, 240, 427)
    x1, y1, x2, y2 = dog.boxes[0][0].tolist()
    rows, columns = (dog.masks[0][0].any(axis).nonzero().flatten() for axis in (1, 0))
    assert abs(y1 - rows[0]) <= 1 and abs(y2 - rows[-1] - 1) <= 1
    assert abs(x1 - columns[0]) <= 1 and abs(x2 - columns[-1] - 1) <= 1
    with pytest.raises(ValueError, match="no clip 'cat' of 'davis'"):
        datasets.clip("davis", "cat", 2)
    for clip in () if fetched else datasets.CLIPS:
        (frame,) = datasets.clip("davis", clip, 1)
        assert frame.masks.any() and frame.image.shape[1] == 240


def test_a_sequence_of_the_paper_is_where_the_manifest_puts_it(monkeypatch):
    asset, study = downloads.assets()["sfu-hw-objects"], VIDEOS_PAPER
    monkeypatch.setattr(video, "sfu", lambda *arguments: arguments)
    assert len(study.clips) == 8
    for name in study.clips:
        yuv, boxes, count = datasets.clip(study.data, name, study.frames, study.size)
        assert yuv.relative_to(asset.home()).as_posix() in {file.name for file in asset.files}
        assert boxes.parent == yuv.parent and boxes.name == f"{name}_val.json" and count == 65


def test_a_record_is_what_its_file_gives_today():
    recipe = next(r for r in VIDEOS.recipes() if run.places(r)[0].exists())
    record, again = results.read(recipe), run.measure(recipe, ledger=False, **QUIET)
    assert again.result["bytes"] == record.result["bytes"]
    assert again.result["bpp_counted"] == pytest.approx(record.result["bpp_counted"], rel=1e-5)
    assert again.result["psnr"] == pytest.approx(record.result["psnr"], abs=0.02)
    assert again.result["boundary_f"] == pytest.approx(record.result["boundary_f"], abs=0.005)
    for judge, ap in again.result["box_ap"].items():
        assert record.result["box_ap"][judge] == pytest.approx(ap, abs=0.01)
        assert min(record.bootstrap["box_ap"][judge]) < ap < max(record.bootstrap["box_ap"][judge])
