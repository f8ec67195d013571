"""Videos as runs of the ledger: edges, files, what is judged, and what is said over several clips."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch.nn.functional import max_pool2d

from icm_helpers import claims, clips, overfit, presets
from icm_helpers.bd import bd_metric
from icm_helpers.clips import edge_matches, f_score
from icm_helpers.data import downloads, video
from icm_helpers.ledger import results
from icm_helpers.tasks import sam

VIDEOS = [
    s for found in presets.CHAPTERS["sa_nerv"].values() for s in found
]  # of every preset, those that are not measured too
(SMOKE,) = presets.studies("sa_nerv", "smoke")
NERV, TRUTH = (next(r for r in SMOKE.recipes() if r.loss == loss) for loss in ("nerv", "sa-nerv-truth"))


@pytest.fixture
def clip():
    return clips.load(NERV)


@pytest.fixture
def scratch(monkeypatch, tmp_path):
    """Runs and caches go to a folder of this test."""
    monkeypatch.setattr(clips, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(clips, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def segmenter(monkeypatch, tmp_path):
    """A segmenter that finds the left half of every frame, and surely; it counts the frames it sees."""
    weights, seen = tmp_path / "nano-sam.safetensors", []
    weights.write_bytes(b"weights")
    monkeypatch.setitem(presets.SEGMENTERS, "nano-sam", results.fingerprint(weights))
    monkeypatch.setattr(sam, "weights_path", lambda name: weights)
    monkeypatch.setattr(sam, "load", lambda *_, **__: torch.nn.Identity())

    def every_mask(model, image, **passed):
        seen.append(image)
        left = torch.zeros(image.shape[1:], dtype=torch.bool)
        left[:, : image.shape[2] // 2] = True
        counts = sam._compressed({"size": list(left.shape), "counts": [0, int(left.sum()), int((~left).sum())]})
        return [{"rle": counts, "predicted_iou": 0.99, "stability_score": 0.9}]

    monkeypatch.setattr(sam, "every_mask", every_mask)
    return seen


@pytest.mark.parametrize("study", VIDEOS, ids=lambda s: f"{s.data}-{'-'.join(s.losses)}-{s.beta}-{s.mask_weight}")
def test_networks_of_a_study_differ_in_clip_size_loss_and_seed_alone(study):
    recipes = study.recipes()
    assert len({r.run_id for r in recipes}) == len(recipes)
    free = {"clip", "codec", "lmbda", "loss", "seed", "edges", "alpha", "mask_weight"}
    trained = [{k: v for k, v in asdict(r).items() if k not in free} for r in recipes if r.method == "trained"]
    assert all(recipe == trained[0] for recipe in trained)
    assert trained[0]["steps"] * study.batch == study.epochs * study.frames


def test_a_clip_is_trained_again_for_every_value_that_decides_its_file():
    assert replace(NERV, detectors=("yolov5n@ff6f13e9",)).codec_id == NERV.codec_id
    for change in ({"clip": "7"}, {"beta": 0.5}, {"density": 0.5}, {"tune_steps": 7}, {"bits": 5}, {"train_images": 3}):
        assert replace(NERV, **change).codec_id != NERV.codec_id


def test_true_edges_run_along_the_masks_and_nowhere_else(clip):
    found = clips.edges(TRUTH, clip)
    assert found.shape == (2, 1, 64, 64) and clips.edges(NERV, clip) is None
    for edges, masks in zip(found, clip.masks, strict=True):
        grown = max_pool2d(masks.any(0, keepdim=True).float(), 3, 1, 1)
        inner = 1 - max_pool2d(1 - masks.float(), 3, 1, 1)  # (n, H, W): a pixel away from each object's own outline
        assert edges.sum() > 20
        assert (edges <= grown).all() and (edges * inner).sum() == 0
    with pytest.raises(ValueError, match="no loss of a video is called 'mse'"):
        clips.edges(replace(NERV, loss="mse"), clip)


def test_segment_anything_sees_a_frame_once(clip, scratch, segmenter):
    study = replace(SMOKE, losses=("sa-nerv",))
    recipe = study.recipes()[0]
    first, again = (clips.edges(recipe, clip, progress=False) for _ in range(2))
    assert len(segmenter) == 2 and torch.equal(first, again)
    columns = first.any(0).any(1)[0].nonzero().flatten().tolist()
    assert columns and set(columns) <= {31, 32}
    assert clips.edges(replace(recipe, alpha=0.995), clip).sum() == 0 and len(segmenter) == 2
    with pytest.raises(ValueError, match="other weights"):
        clips.edges(replace(recipe, edges="nano-sam@12345678"), clip)


def test_sa_nerv_trains_on_the_edges_of_segment_anything(scratch, segmenter):
    recipe = replace(SMOKE, losses=("sa-nerv",)).recipes()[0]
    data = clips.coded(recipe, device="cpu", progress=False)
    plain = clips.coded(replace(NERV, codec=recipe.codec), device="cpu", progress=False)
    assert len(segmenter) == 2 and data != plain
    assert clips.decoded(recipe, data).shape == (2, 3, 64, 64)


def test_a_clip_that_was_coded_is_not_trained_again(scratch, monkeypatch):
    data = clips.coded(NERV, device="cpu", progress=False)
    assert clips.places(NERV)[1].read_bytes() == data
    assert not list(scratch.rglob("*.ckpt"))
    monkeypatch.setattr(overfit, "overfit", None)
    assert clips.coded(NERV) == data


def test_a_network_need_not_be_trained_after_pruning():
    untuned = replace(NERV, density=1.0, tune_steps=0)
    data = clips.coded(untuned, keep=False, device="cpu", progress=False)
    assert clips.decoded(untuned, data).shape == (2, 3, 64, 64)


def test_an_interrupted_training_goes_on_to_the_same_file(scratch, monkeypatch, tmp_path):
    whole = clips.coded(NERV, keep=False, device="cpu", progress=False)
    prune = clips.nerv.prune
    monkeypatch.setattr(clips.nerv, "prune", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        clips.coded(NERV, device="cpu", progress=False)
    monkeypatch.setattr(clips.nerv, "prune", prune)
    assert clips.coded(NERV, device="cpu", progress=False) == whole


def test_what_pruning_leaves_is_counted_whatever_its_values():
    network = clips.network(NERV)
    total, kept = sum(p.numel() for p in network.parameters()), clips.counted_bits(NERV) / NERV.bits
    assert NERV.density < kept / total < NERV.density + 0.05  # biases and the head are never pruned
    assert clips.counted_bits(replace(NERV, density=1.0)) == NERV.bits * total


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

    result, bootstrap = clips.judge(clip, clip.frames, {"oracle": Oracle()})
    assert (result["psnr"], result["boundary_f"], result["frames"], result["pixels"]) == (120, 1, 2, 64 * 64)
    assert result["box_ap"]["oracle"] == pytest.approx(1) and len(bootstrap["box_ap"]["oracle"]) == 200
    worse, _ = clips.judge(clip, (clip.frames + 0.1 * clip[0].object_mask).clamp(0, 1), {})
    assert worse["psnr_inside"] < 25 < worse["psnr_outside"]


def test_a_detector_that_knows_other_categories_is_refused(clip):
    class Stranger:
        categories = {1: "zebra"}  # noqa: RUF012

    with pytest.raises(ValueError, match="which stranger does not know"):
        clips.judge(clip, clip.frames, {"stranger": Stranger()})


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


def record(loss: str, clip: str, lmbda: float, bpp: float, ap: float) -> dict:
    """A record of a clip; its AP has an error that all methods share, as the frames of a clip do."""
    noise = np.random.default_rng(int(clip)).normal(0, 0.1, 200)
    recipe = {"method": "trained", "codec": f"n{lmbda:g}", "loss": loss, "lmbda": lmbda, "clip": clip}
    return {
        "recipe": recipe,
        "result": {"bpp": bpp, "box_ap": {"judge": ap}},
        "bootstrap": {"box_ap": {"judge": (ap + noise).tolist()}},
    }


def ladder(loss: str, gains: dict[str, float]) -> list[dict]:
    return [
        record(loss, clip, n, 0.1 * n, 0.1 * n + int(clip) / 10 + gain)
        for clip, gain in gains.items()
        for n in (1, 2, 3)
    ]


def test_clips_are_drawn_together_for_all_methods():
    """A gain that is the same on every clip has no spread, however different the clips are."""
    names = [str(i) for i in range(6)]
    records = ladder("nerv", dict.fromkeys(names, 0.0)) + ladder("sa-nerv", dict.fromkeys(names, 0.05))
    curves = claims.curves(records, "box_ap", "judge")
    assert curves["nerv"].metric == pytest.approx([0.35, 0.45, 0.55])
    assert curves["nerv"].metric_replicates[:, 0].std() > 0.05
    gain = bd_metric(curves["nerv"], curves["sa-nerv"])
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.05, 0.05, 0.05))


@pytest.mark.parametrize(
    ("wins", "value", "verdict"), [(6, 0.5, "reproduced"), (5, 1 / 3, "not decided"), (0, -0.5, "contradicted")]
)
def test_a_majority_counts_videos(wins, value, verdict):
    gains = {str(i): 0.02 if i < wins else -0.02 for i in range(6)}
    records = ladder("nerv", dict.fromkeys(gains, 0.0)) + ladder("sa-nerv", gains)
    found = {f.claim.id: f for f in claims.findings("sa_nerv", "scenes-video", records)}
    assert found["sa-nerv/1a"].interval.value == pytest.approx(value)
    assert found["sa-nerv/1a"].verdict == verdict
    assert "of the videos" in claims.describe(found["sa-nerv/1a"])
    assert found.keys() == {"sa-nerv/1a", "sa-nerv/1b"}


def test_runs_on_fewer_clips_are_not_averaged_with_others():
    records = ladder("nerv", {"1": 0.0, "2": 0.0}) + ladder("sa-nerv", {"1": 0.0})
    with pytest.raises(ValueError, match="made on 1 clips, others on 2"):
        claims.curves(records, "box_ap", "judge")


def test_a_claim_without_records_is_not_measured():
    records = ladder("nerv", {"1": 0.0, "2": 0.0})
    findings = claims.findings("sa_nerv", "scenes-video", records)
    assert findings == []
    for told in (
        claims.cards("sa_nerv", findings).count("**not measured**"),
        claims.unreproduced("sa_nerv", findings).count("not measured"),
        sum(row["verdict"] == "not measured" for row in claims.verdicts("sa_nerv", findings)),
    ):
        assert told == len(claims.CLAIMS["sa_nerv"])


@pytest.mark.parametrize("fetched", [False, True])
def test_davis_is_halved_with_its_boxes_and_masks(fetched, real_data, monkeypatch, tmp_path):
    if fetched:  # where `icm_helpers.data.datasets fetch davis2016` unpacks it
        monkeypatch.setattr(downloads, "DATA", tmp_path)
        monkeypatch.setenv("ICM_REAL_DATA", str(tmp_path / "none"))
        (tmp_path / "davis2016").mkdir()
        (tmp_path / "davis2016" / "DAVIS").symlink_to(real_data / "davis2016")
    recipe = presets.VIDEOS_DAVIS.recipes()[0]
    dog = clips.load(replace(recipe, images=2))
    assert dog.frames.shape == (2, 3, 240, 427)
    x1, y1, x2, y2 = dog.boxes[0][0].tolist()
    rows, columns = (dog.masks[0][0].any(axis).nonzero().flatten() for axis in (1, 0))
    assert abs(y1 - rows[0]) <= 1 and abs(y2 - rows[-1] - 1) <= 1
    assert abs(x1 - columns[0]) <= 1 and abs(x2 - columns[-1] - 1) <= 1
    with pytest.raises(ValueError, match="no clip 'cat' of 'davis'"):
        clips.load(replace(recipe, clip="cat"))


@pytest.mark.parametrize("study", presets.VIDEOS_PAPER, ids=lambda s: s.networks[0])
def test_a_sequence_of_the_paper_is_where_the_manifest_puts_it(study, monkeypatch):
    asset = downloads.assets()["sfu-hw-objects"]
    monkeypatch.setattr(video, "sfu", lambda *arguments: arguments)
    for name in study.clips:
        yuv, boxes, count = clips.load(replace(study.recipes()[0], clip=name))
        assert yuv.relative_to(asset.home()).as_posix() in {file.name for file in asset.files}
        assert boxes.parent == yuv.parent and boxes.name == f"{name}_val.json" and count == 65


def test_a_record_is_what_its_file_gives_today():
    recipes = presets.VIDEOS.recipes()
    recipe = next(r for r in recipes if clips.places(r)[0].exists())
    record, again = results.read(recipe), clips.measure(recipe, ledger=False, device="cpu", progress=False)
    assert again["result"]["bytes"] == record["result"]["bytes"]
    assert again["result"]["psnr"] == pytest.approx(record["result"]["psnr"], abs=0.02)
    assert again["result"]["boundary_f"] == pytest.approx(record["result"]["boundary_f"], abs=0.005)
    for judge, ap in again["result"]["box_ap"].items():
        assert record["result"]["box_ap"][judge] == pytest.approx(ap, abs=0.01)
        assert min(record["bootstrap"]["box_ap"][judge]) < ap < max(record["bootstrap"]["box_ap"][judge])
