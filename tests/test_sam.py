"""Segment Anything by its own package: the automatic pass, weight files, and how the nano model learns."""

import functools
import sys
from itertools import islice

import numpy as np
import pytest
import torch

pytest.importorskip("segment_anything", reason="needs the extra `sam`")

from icm_helpers import cli, masks, options, train
from icm_helpers.data import DataError, datasets, scenes
from icm_helpers.files import CHECKPOINTS
from icm_helpers.tasks import sam


def picture(seed: int, size: int = 96) -> torch.Tensor:
    return torch.from_numpy(scenes.scene(seed, size).image).permute(2, 0, 1).float() / 255


class Rectangles(torch.nn.Module):
    """In a mask decoder's place: the same rectangles anywhere each time, three a point, of predicted IoU between .3 and 1."""

    def forward(self, sparse_prompt_embeddings, **_) -> tuple[torch.Tensor, torch.Tensor]:
        n, draw = len(sparse_prompt_embeddings), torch.Generator().manual_seed(0)
        start, side = (torch.rand(n, 3, 2, 1, generator=draw) * scale for scale in (48, 40))
        at = torch.arange(64)
        y, x = ((at >= start) & (at <= start + side + 4)).unbind(2)  # (n, 3, 64) each
        inside = y[..., None] & x[..., None, :]
        return 16.0 * inside - 8, 0.3 + 0.7 * torch.rand(n, 3, generator=draw)


@pytest.fixture
def confident():
    """The package's model and generator, with a decoder that finds much."""
    model = sam.nano(128)
    model.mask_decoder = Rectangles()
    return model


def test_the_masks_above_alpha_are_those_of_a_separate_pass(confident):
    image = picture(0)
    found = functools.partial(sam.every_mask, confident, image, points_per_side=8, points_per_batch=64)
    once = masks.MaskSet.of(image, found(0.3))
    unsuppressed = found(0.3, box_nms_thresh=1.0)
    kept = [len(once)]
    for alpha in (0.48, 0.93, 0.98):
        again = masks.MaskSet.of(image, found(alpha))
        filtered = once.above(alpha)
        assert filtered.counts == again.counts and (filtered.predicted_iou == again.predicted_iou).all()
        assert (filtered.stability_score == again.stability_score).all()
        kept.append(len(again))
    assert len(unsuppressed) > kept[0] > kept[1] > kept[2] > kept[3] > 0


def test_where_nothing_reaches_the_threshold_there_is_no_mask(confident):
    assert sam.every_mask(confident, torch.full((3, 40, 64), 0.5), 0.9999, points_per_side=2) == []


def test_the_shipped_nano_model_finds_objects_that_it_has_not_seen():
    dataset, (segment, _) = datasets.load("scenes", "val", size=192, limit=4), masks.automatic(alpha=0.48)
    best, kept = [], []
    for i in range(len(dataset)):
        found = masks.MaskSet.of(dataset[i].image, segment(dataset[i].image))
        best += masks.ious(found, dataset[i].masks).max(0, initial=0).tolist()
        kept.append([len(found.above(alpha)) for alpha in (0.98, 0.93, 0.48)])
    assert np.mean(best) == pytest.approx(0.753, abs=0.02)
    assert np.mean(kept, 0) == pytest.approx([2.5, 5.25, 17.5], rel=0.2)


@pytest.mark.parametrize("wrong", [{"pred_iou_thresh": 0.0}, {"stability_score_thresh": 1.5}, {"points_per_side": 0}])
def test_a_pass_that_makes_no_sense_is_refused(confident, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        sam.every_mask(confident, torch.rand(3, 32, 32), **wrong)


def test_training_computes_what_the_package_computes():
    model, image = sam.nano(128), torch.rand(2, 3, 128, 128)
    points = torch.randint(0, 128, (2, 3, 2)).float()
    with torch.no_grad():
        logits, scores = sam.Prompted(model)(image, points)
        for k in range(2):
            features = model.image_encoder(model.preprocess(255 * image[k : k + 1]))
            prompts = model.prompt_encoder((points[k][:, None], torch.ones(3, 1)), boxes=None, masks=None)
            theirs = model.mask_decoder.predict_masks(features, model.prompt_encoder.get_dense_pe(), *prompts)
            torch.testing.assert_close((logits[k], scores[k]), theirs, rtol=1e-4, atol=1e-4)


def test_every_prompt_lies_on_its_whole_and_on_its_part():
    data = sam.Prompts(seed=0, length=20, scenes=2, points=6, size=128)
    smaller = 0
    for i in range(8):
        image, points, truth = data[i]
        assert image.shape == (3, 128, 128) and image.min() >= 0 and image.max() <= 1
        x, y = points.long().T
        assert truth[torch.arange(6), :, y, x].all() and not (truth[:, 1] & ~truth[:, 0]).any()
        smaller += (truth[:, 1].sum() < truth[:, 0].sum()).item()
        again = sam.Prompts(seed=0, length=20, scenes=2, points=6, size=128)[i] if i == 7 else data[i]
        assert all(torch.equal(a, b) for a, b in zip((image, points, truth), again, strict=True))
    assert smaller > 2


def test_photographs_teach_what_is_known_of_them(real_data):
    data = sam.PhotoPrompts(0, 20, [*islice(sam.photo_lessons(real_data), 8)], points=6, size=96)
    unknown = 0
    for i in range(20):
        image, points, truth = data[i]
        assert image.shape == (3, 96, 96) and image.min() >= 0 and image.max() <= 1
        x, y = points.long().T
        assert truth[torch.arange(6), :, y, x].all() and torch.equal(truth[:, 0], truth[:, 1])
        unknown += (~truth[:, 0].any(0)).sum().item()
    assert unknown > 0
    with pytest.raises(DataError, match="coco_mini"):
        next(sam.photo_lessons(real_data / "kodak"))


def fit(steps: int, stop: int | None = None, folder=None) -> tuple[torch.nn.Module, list[dict[str, float]]]:
    torch.manual_seed(0)
    model = sam.nano(128)
    data = sam.Prompts(seed=0, length=2 * steps, scenes=2, points=4, size=128)
    if stop is not None:
        whole = data._scene
        data._scene = lambda index: whole(index) if len(seen.append(index) or seen) <= 2 * stop else interrupt()
        seen: list[int] = []
    plan = train.Schedule(steps=steps, batch=2, lr=2e-4, warmup=4, milestones=(), save_every=2)
    return model, train.fit(
        sam.Prompted(model), data, sam.prompt_loss, plan, folder=folder, device="cpu", progress=False
    )


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_few_steps_lower_the_loss_and_a_stopped_training_ends_with_the_same_bits(tmp_path):
    model, curve = fit(16)
    torch.manual_seed(0)
    batch = torch.utils.data.default_collate([sam.Prompts(seed=1, length=8, scenes=2, size=128)[i] for i in range(8)])
    with torch.no_grad():
        before, after = (sam.prompt_loss(sam.Prompted(m), batch)["loss"].item() for m in (sam.nano(128), model))
    assert after < 0.95 * before, (before, after)
    with pytest.raises(KeyboardInterrupt):
        fit(16, stop=9, folder=tmp_path)
    resumed, again = fit(16, folder=tmp_path)
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in model.state_dict().items()) and curve == again


def test_a_nano_model_sees_larger_pictures_with_the_weights_that_it_has():
    model = sam.nano(128)
    same, larger = (sam.enlarged(model, size).state_dict() for size in (128, 192))
    assert all(torch.equal(v, same[k]) for k, v in model.state_dict().items())
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, larger[k])}
    assert changed == {"image_encoder.pos_embed"} and larger["image_encoder.pos_embed"].shape == (1, 24, 24, 128)


@pytest.mark.parametrize("size", [sam.SIZE, 256])
def test_a_nano_model_of_at_most_8_mb_comes_back_from_its_file(size, tmp_path):
    model, path = sam.nano(size), tmp_path / "nano.safetensors"
    sam.save_nano(model, path)
    assert path.stat().st_size < 8_000_000
    loaded = sam.load("nano", path)
    assert all(torch.equal(v.half().float(), loaded.state_dict()[k]) for k, v in model.state_dict().items())
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


def test_wrong_weights_are_refused_with_the_cure(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"icm sam --out"):
        sam.load("nano", tmp_path / "absent.safetensors")
    with pytest.raises(FileNotFoundError, match=r"icm datasets fetch sam-vit-b"):
        sam.load("vit_b", tmp_path / "absent.pth")
    with pytest.raises(ValueError, match=r"holds yolov5n-scenes, not a nano-sam"):
        sam.load("nano", CHECKPOINTS / "yolov5n-scenes.safetensors")
    with pytest.raises(ValueError, match=r"no Segment Anything is called 'vit_x'; known: nano, vit_b"):
        sam.load("vit_x")
    large = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save({"image_encoder.patch_embed.proj.weight": torch.zeros(1024, 3, 16, 16)}, large)
    with pytest.raises(ValueError, match=r"holds vit_l, not vit_b"):
        sam.load("vit_b", large)
    large.write_bytes(large.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"sam_vit_b_01ec64\.pth is not a file of weights .* fetch it again"):
        sam.load("vit_b", large)
    torch.save({"model": torch.zeros(3)}, large)
    with pytest.raises(ValueError, match=r"does not hold a Segment Anything"):
        sam.load("vit_b", large)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    sam._package.cache_clear()
    with pytest.raises(ImportError, match="install the extra `sam`"):
        sam.nano(128)
    sam._package.cache_clear()


def test_the_command_trains_weights_further_and_their_file_opens(tmp_path, monkeypatch):
    monkeypatch.setattr(options, "RUNS", tmp_path)
    monkeypatch.setattr(sam, "LEGS", (64, 64))
    start, out = tmp_path / "start.safetensors", tmp_path / "more.safetensors"
    sam.save_nano(sam.nano(64), start)
    cli.Sam(out=out, start=start, steps=(1,), batch=1, images=1, judged=0, workers=0, device="cpu")()
    changed = [
        k for k, v in sam.load("nano", start).state_dict().items() if (v != sam.load("nano", out).state_dict()[k]).any()
    ]
    assert len(changed) > 100
    with pytest.raises(ValueError, match="--steps has 3 numbers"):
        cli.Sam(out=out, steps=(1,) * 3)()
