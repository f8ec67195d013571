"""Masks stored once and filtered afterwards, the edges drawn from them, and what happens to files when things go wrong."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as rle

from icm_helpers import losses, masks, run
from icm_helpers.data import datasets
from icm_helpers.data.crops import Crops
from icm_helpers.data.formats import DataError
from icm_helpers.ledger.recipe import Accuracy, Pictures, Recipe, Trained, Training
from icm_helpers.objectives import SAICM, TrueEdges
from icm_helpers.tasks import models

RECIPE = {"model": "squares", "pred_iou_thresh": 0.4}
FORK = multiprocessing.get_context("fork")


def found(shapes: np.ndarray, scores) -> masks.MaskSet:
    """A mask set of (n, H, W) bool."""
    packed = [rle.encode(np.asfortranarray(shape, np.uint8)) for shape in shapes]
    items = [
        {"rle": {"size": list(p["size"]), "counts": p["counts"].decode()}, "predicted_iou": s, "stability_score": 0.97}
        for p, s in zip(packed, scores, strict=True)
    ]
    return masks.MaskSet.of(torch.zeros(3, *shapes.shape[1:]), items)


def rectangles(seed: int, n: int = 30, side: int = 96) -> masks.MaskSet:
    """Rectangles anywhere, of predicted IoU between .4 and 1."""
    rng = np.random.default_rng(seed)
    shapes = np.zeros((n, side, side), bool)
    for shape in shapes:
        (y, x), (h, w) = rng.integers(0, side - 8, 2), rng.integers(6, side // 2, 2)
        shape[y : y + h, x : x + w] = True
    return found(shapes, rng.uniform(0.4, 1, n))


class Numbered:
    """A data set of pictures that each tell their number."""

    def __init__(self, n: int = 12) -> None:
        self.ids = list(range(100, 100 + n))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(image=torch.full((3, 96, 96), index / 255))


def segment(image: torch.Tensor) -> list[dict]:
    of = rectangles(round(image[0, 0, 0].item() * 255))
    scores = zip(of.rles(), of.predicted_iou, of.stability_score, strict=True)
    return [{"rle": r, "predicted_iou": float(p), "stability_score": float(s)} for r, p, s in scores]


def make(folder, n: int = 12, recipe=RECIPE, **settings) -> int:
    return masks.make(folder, Numbered(n), segment, recipe, progress=False, **settings)


def same(a: masks.MaskSet, b: masks.MaskSet) -> bool:
    return (
        (a.size, a.counts) == (b.size, b.counts)
        and (a.predicted_iou == b.predicted_iou).all()
        and (a.stability_score == b.stability_score).all()
    )


def assert_whole(folder, n: int = 12) -> None:
    """Every picture's masks are those that one undisturbed process stores."""
    assert all(same(masks.read(folder, i), rectangles(i - 100)) for i in Numbered(n).ids)


def test_masks_come_back_from_disk_as_they_were(tmp_path):
    masks.write(tmp_path, 7, rectangles(0))
    assert same(masks.read(tmp_path, 7), rectangles(0))
    empty = found(np.zeros((0, 20, 30), bool), [])
    masks.write(tmp_path, 8, empty)
    assert same(masks.read(tmp_path, 8), empty) and masks.read(tmp_path, 8).decode().shape == (0, 20, 30)


def test_edges_are_drawn_once_and_anew_where_their_file_is_damaged(tmp_path, monkeypatch):
    masks.write(tmp_path, 7, rectangles(0))
    drawn = masks.sam_edges(rectangles(0), 0.5, dilate=1)
    assert torch.equal(masks.stored_edges(tmp_path, 7, 0.5, dilate=1), drawn)
    (kept,) = tmp_path.glob("edges*/*")
    for content in (kept.read_bytes()[:-9], b"", b"no gzip"):
        kept.write_bytes(content)
        assert torch.equal(masks.stored_edges(tmp_path, 7, 0.5, dilate=1), drawn)
    monkeypatch.delattr(masks, "sam_edges")
    assert torch.equal(masks.stored_edges(tmp_path, 7, 0.5, dilate=1, shift=3), drawn.roll(3, dims=-1))


def test_a_mask_exactly_at_alpha_is_not_above_it_as_in_segment_anything():
    # 0.93 in single precision is a little more than 0.93.
    of = found(np.ones((3, 8, 8), bool), [0.93, np.nextafter(np.float32(0.93), np.float32(1)), 0.5])
    assert len(of.above(0.93)) == (torch.tensor(of.predicted_iou) > 0.93).sum() == 1


def test_small_masks_stay_visible_only_where_large_ones_are_drawn_first():
    shapes = np.zeros((3, 32, 32), bool)
    shapes[0, 12:20, 12:20] = shapes[1, 4:28, 4:28] = shapes[2, 10:24, 10:24] = True
    of = found(shapes, [0.9, 0.7, 0.8])
    assert [masks.segmentation_map(of, order)[16, 16] for order in masks.ORDERS] == [3, 3, 3]
    first, last, surest = (masks.segmentation_map(of, order) for order in masks.ORDERS)
    assert len(np.unique(first)) == 4 and len(np.unique(last)) == 2 and (surest == first).all()
    assert masks.edges(first).sum() > 1.5 * masks.edges(last).sum()
    with pytest.raises(ValueError, match=r"no drawing order is called 'random'; known: largest-first, "):
        masks.segmentation_map(of, "random")


def test_edges_are_the_borders_of_the_map_and_nothing_else():
    missed = []
    for seed in range(10):
        labels = masks.segmentation_map(rectangles(seed))
        border = np.zeros(labels.shape, bool)
        border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
        border[1:] |= labels[1:] != labels[:-1]
        drawn = masks.edges(labels)
        near = [cv2.dilate(m.astype(np.uint8), np.ones((5, 5))) > 0 for m in (border, drawn)]
        assert not (drawn & ~near[0]).any()
        missed.append((border & ~near[1]).sum() / border.sum())
    assert np.mean(missed) < 0.02, missed  # slivers of a pixel or two


def test_dilation_widens_edges_by_so_many_pixels_on_each_side():
    labels = np.repeat([[1, 2]], 16, axis=1).repeat(32, axis=0)
    assert [masks.edges(labels, dilate=k)[16].sum() for k in (0, 1, 2)] == [1, 3, 5]


def test_edges_moved_aside_are_as_many_and_elsewhere():
    there, beside = (masks.sam_edges(rectangles(0), 0.48, shift=pixels) for pixels in (0, 8))
    assert torch.equal(beside[..., 8:], there[..., :-8]) and torch.equal(beside[..., :8], there[..., -8:])
    assert (there * beside).sum() < 0.5 * there.sum()


def test_edges_grow_as_alpha_falls():
    sets = [rectangles(seed) for seed in range(20)]
    shares = [np.mean([masks.sam_edges(of, a).mean() for of in sets]) for a in (0.98, 0.93, 0.8, 0.48)]
    assert all(few < many for few, many in itertools.pairwise(shares))


def test_without_masks_the_edges_are_zero_and_nothing_is_learned():
    mask = masks.sam_edges(rectangles(0), alpha=1.0)
    assert mask.shape == (1, 96, 96) and mask.dtype == torch.float32 and not mask.any()


def test_a_loss_on_edges_has_no_gradient_beside_them():
    mask = masks.sam_edges(rectangles(3), alpha=0.48)[None]
    x, x_hat = torch.rand(1, 3, 96, 96), torch.rand(1, 3, 96, 96, requires_grad=True)
    losses.masked_mse(x, x_hat, mask).backward()
    moved = x_hat.grad.abs().amax(1, keepdim=True) > 0
    assert torch.equal(moved, mask.bool()) and moved.any()


def test_the_best_mask_of_an_object_is_found():
    truth = np.zeros((2, 16, 16), bool)
    truth[0, :8], truth[1, 12:] = True, True
    of = found(np.stack([truth[0], ~truth[0]]), [0.9, 0.8])
    assert masks.ious(of, torch.from_numpy(truth)).tolist() == [[1.0, 0.0], [0.0, 0.5]]
    assert masks.ious(of.above(0.95), torch.from_numpy(truth)).max(0, initial=0).tolist() == [0.0, 0.0]


def test_masks_of_another_size_than_the_picture_are_refused():
    with pytest.raises(ValueError, match=r"a mask of size \[96, 96\] in a picture of size \[96, 64\]"):
        masks.MaskSet.of(torch.zeros(3, 96, 64), segment(torch.zeros(3, 96, 96)))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other", "missing"])
def test_a_damaged_file_is_named_with_the_cure(tmp_path, damage):
    path = masks.write(tmp_path, 5, rectangles(0))
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :]
    path.write_bytes({"truncated": whole[:middle], "flipped": flipped, "other": b"{}"}.get(damage, b""))
    if damage == "missing":
        path.unlink()
    with pytest.raises(DataError, match=r"000000000005\.json\.gz.*make"):
        masks.read(tmp_path, 5)


def test_making_goes_on_where_it_was_stopped_and_parts_share_the_work(tmp_path):
    assert make(tmp_path, 5) == 5
    assert [make(tmp_path, part=(k, 3)) for k in (1, 2, 3)] == [2, 2, 3]
    assert make(tmp_path) == 0
    assert_whole(tmp_path)


def test_a_folder_made_otherwise_is_refused(tmp_path):
    make(tmp_path, 2)
    with pytest.raises(DataError, match=r"pred_iou_thresh 0\.4 there, 0\.9 here"):
        make(tmp_path, 2, {**RECIPE, "pred_iou_thresh": 0.9})
    (tmp_path / "masks.json").write_bytes(b"{")
    with pytest.raises(DataError, match=r"masks\.json cannot be read"):
        make(tmp_path, 2)


def test_two_processes_at_once_leave_one_good_file_a_picture(tmp_path):
    workers = [FORK.Process(target=make, args=(tmp_path,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sorted(os.listdir(tmp_path)) == [*(masks.file("", i).name for i in Numbered().ids), "masks.json"]
    assert_whole(tmp_path)


def _die_at_the_third_file(folder) -> None:
    calls = itertools.count(1)

    def replace(*paths):
        if next(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(*paths)

    rename, os.replace = os.replace, replace
    make(folder)


def test_a_killed_process_leaves_no_half_file(tmp_path):
    worker = FORK.Process(target=_die_at_the_third_file, args=(tmp_path,))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert masks.info(tmp_path)["pictures"] == 2
    assert make(tmp_path) == 10
    assert_whole(tmp_path)


def test_info_states_what_a_folder_holds(tmp_path):
    make(tmp_path, 3)
    told = masks.info(tmp_path, alphas=(0.9, 0.5))
    sizes = [masks.file(tmp_path, i).stat().st_size for i in (100, 101, 102)]
    assert told["recipe"] == RECIPE and told["bytes"] == np.mean(sizes) and told["masks"][0.9] < told["masks"][0.5] < 30
    masks.write(tmp_path, "berlin/12ab", masks.read(tmp_path, 100))
    assert masks.info(tmp_path)["pictures"] == 4
    with pytest.raises(DataError, match="is not a folder of masks"):
        masks.info(tmp_path / "elsewhere")


def test_a_recipe_trains_on_the_edges_of_stored_masks_above_its_alpha(tmp_path, monkeypatch):
    scenes = datasets.load("scenes", "train", size=64, limit=2, root=tmp_path)
    for i, sample in zip(scenes.ids, scenes, strict=True):
        shapes = sample.masks.numpy()
        masks.write(tmp_path, i, found(shapes, np.linspace(0.5, 0.9, len(shapes))))
    segmenter, asked = models.fingerprinted("sam-vit-b"), []
    monkeypatch.setattr(datasets, "load", lambda *_, **__: scenes)
    monkeypatch.setattr(masks, "stored", lambda data, **how: asked.append((data, how["model"])) or tmp_path)
    how = Training("none", 4, 2, 64, 1e-4, "none", "32-true", 2)

    def crops(alpha: float) -> Crops:
        codec = Trained("mean-scale-small", SAICM(segmenter, alpha), 0.01, how)
        return run.training_crops(Recipe("chapter", Pictures("scenes", 2, 64), codec, Accuracy(())), 8)

    many, few = crops(0.48), crops(0.8)
    assert asked == [("scenes", "vit_b")] * 2
    for (image, more), (same, fewer), (plain, objects) in zip(many, few, Crops(scenes, 64, 0, 8, "none"), strict=True):
        assert torch.equal(image, same) and torch.equal(image, plain)
        assert (fewer <= more).all() and fewer.sum() < more.sum() < objects.sum()
    with pytest.raises(ValueError, match=r"alpha is 0\.3: masks are stored from 0\.48 on"):
        crops(0.3)


def test_the_true_edges_lie_where_things_and_stuff_meet(tmp_path):
    scenes = datasets.load("scenes", "train", size=64, limit=1, root=tmp_path)
    region = TrueEdges().region(scenes, Pictures("scenes", 1, 64))
    drawn, ids = region(scenes[0])[0].bool(), scenes.panoptic[scenes.ids[0]].ids
    around = np.ones((3, 3), np.uint8)
    border = torch.from_numpy(cv2.dilate(ids.astype(np.uint8), around) != cv2.erode(ids.astype(np.uint8), around))
    assert 0.02 < drawn.float().mean() < 0.3 and not (drawn & ~border).any()
    scenes.panoptic = None
    with pytest.raises(DataError, match="has no panoptic maps"):
        TrueEdges().region(scenes, Pictures("scenes", 1, 64))


ENCODE = """
import sys, torch
from icm_helpers.codecs import container, zoo
torch.manual_seed(0)
codec = zoo.load(weights=None)
codec.update(force=True)
assert container.encode(codec.eval(), torch.rand(3, 64, 64))
print(*sys.modules.keys() & {"icm_helpers.masks", "icm_helpers.tasks.sam", "segment_anything"})
"""


def test_the_encoder_sees_no_mask():
    done = subprocess.run([sys.executable, "-c", ENCODE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
