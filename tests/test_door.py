"""At the door: what is damaged, too large or in the way is refused before the work, by an error that names it."""

import copy
import json
import math
import os
import resource
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from test_train import Noise, fit
from test_train import codec as trainable

from icm_helpers import bd, cli, files, train
from icm_helpers.codecs import container, nerv, networks, zoo
from icm_helpers.codecs.container import BitstreamError
from icm_helpers.data.coco import CocoDataset
from icm_helpers.data.crops import Crops
from icm_helpers.ledger import results
from icm_helpers.tasks import models, sam, weights
from icm_helpers.tasks.mask_rcnn import SmallFasterRCNN, SmallMaskRCNN
from icm_helpers.tasks.panoptic_deeplab import PanopticDeepLab
from icm_helpers.tasks.rcnn import COCORCNN
from icm_helpers.tasks.yolov5 import YOLOv5

IMAGE = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))


def fresh(name, **how):
    quality = min(zoo.CODECS[name].sizes or (0,)) or None
    codec = zoo.load(name, quality, weights=None, **how)
    networks.update_tables(codec, force=True)
    return codec


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return fresh("mean-scale-small")


# --- weights, latents, tables --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["g_a.0.weight", "h_a.2.bias", "h_s.0.weight", "g_s.6.bias"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_is_refused_by_codec_and_part_when_coding(part, value, small):
    broken = copy.deepcopy(small)
    with torch.no_grad():
        broken.get_parameter(part).view(-1)[0] = value
    with pytest.raises(ValueError, match=f"mean-scale-small has NaN or infinity in {part}"):
        container.encode(broken, IMAGE)
    with pytest.raises(ValueError, match=f"mean-scale-small has NaN or infinity in {part}"):
        list(container.encode_many(broken, [IMAGE]))
    broken.known_fingerprint = networks.fingerprint(small)  # so that weights are not looked at: by what comes of them
    if part.startswith("g_a") or (part.startswith("g_s") and math.isnan(value)):  # a picture's infinity is cut to white
        with pytest.raises(ValueError, match=r"mean-scale-small (gives its|decodes NaN)"):
            container.decode(broken, container.encode(broken, IMAGE))


@pytest.mark.parametrize(
    "name", ["mean-scale-small", "bmshj2018-factorized", "mbt2018", "tcm-tiny", "bmshj2018-hyperprior-vbr"]
)
@pytest.mark.parametrize("factor", [1e9, 1e30, 3e38])
def test_latents_too_large_for_the_range_coder_are_refused(name, factor):
    codec = fresh(name)
    weight = [p for key, p in codec.g_a.named_parameters() if key.endswith("weight") and p.ndim == 4][-1]
    with torch.no_grad():
        weight.mul_(factor).clamp_(-3e38, 3e38)
    with pytest.raises(ValueError, match=f"{name} gives its .*(latents|scales)"):
        container.encode(codec, IMAGE)


def test_a_file_with_broken_weights_is_neither_written_nor_read(small, tmp_path):
    path, broken = tmp_path / "codec.safetensors", copy.deepcopy(small)
    networks.save(small, path)
    state = load_file(path)
    state["g_a.0.weight"][0] = torch.nan
    save_file(state, path, metadata={"codec": small.name, "quality": "None"})
    torch.save(state | {"g_s.0.weight": state["g_s.0.weight"] / 0}, tmp_path / "codec.pth")
    for file in (path, tmp_path / "codec.pth"):
        with pytest.raises(ValueError, match=f"{file} has NaN or infinity in g_a.0.weight"):
            zoo.load("mean-scale-small", weights=file)
    with torch.no_grad():
        broken.g_s[0].weight.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"infinity in g_s\.0\.weight"):
        networks.save(broken, tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()


@pytest.mark.parametrize("damage", ["stale", "empty", "rising", "long"])
def test_tables_that_are_none_of_the_weights_are_made_anew_and_said(damage, small, tmp_path, caplog):
    state = {key: value.clone() for key, value in small.state_dict().items()}
    table = state["gaussian_conditional._quantized_cdf"]
    if damage == "stale":
        state["entropy_bottleneck._quantized_cdf"] = state["entropy_bottleneck._quantized_cdf"].flip(0)
    elif damage == "long":
        state["gaussian_conditional._cdf_length"] += 9
    else:
        table[:] = 0 if damage == "empty" else table.flip(1)
    torch.save(state, tmp_path / "codec.pth")
    codec = zoo.load("mean-scale-small", weights=tmp_path / "codec.pth")
    assert "the CDF tables in" in caplog.text and "were made anew" in caplog.text
    assert networks.fingerprint(codec) == networks.fingerprint(small)


def test_tables_that_differ_by_rounding_stay_as_they_are(small, tmp_path, caplog):
    state = {key: value.clone() for key, value in small.state_dict().items()}
    state["gaussian_conditional._quantized_cdf"][5, 3] += 1
    torch.save(state, tmp_path / "codec.pth")
    codec = zoo.load("mean-scale-small", weights=tmp_path / "codec.pth")
    assert torch.equal(codec.gaussian_conditional._quantized_cdf, state["gaussian_conditional._quantized_cdf"])
    assert not caplog.text


def test_every_loader_of_judges_refuses_weights_that_are_not_finite(tmp_path):
    judge = SmallFasterRCNN({1: "thing"})
    judge.save(tmp_path / "own.safetensors")
    content = load_file(tmp_path / "own.safetensors")
    name = "rpn.head.conv.0.0.weight"
    content[name][0] = torch.nan
    weights.save(tmp_path / "fine.safetensors", "x", {}, {}, 1)
    told = {"model": "faster-rcnn-small", "categories": json.dumps({"1": "thing"}), "size": "256"}
    save_file(content, tmp_path / "own.safetensors", metadata=told)
    with pytest.raises(ValueError, match=f"own.safetensors has NaN or infinity in {name}"):
        SmallFasterRCNN.from_weights(tmp_path / "own.safetensors")
    for kind in (COCORCNN, YOLOv5):
        torch.save({"weight": torch.tensor([torch.inf])}, tmp_path / "a.pth")
        save_file({"weight": torch.tensor([torch.inf])}, tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match="has NaN or infinity in weight"):
            kind.from_weights(tmp_path / ("a.safetensors" if kind is YOLOv5 else "a.pth"))


ALLOCATION = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")


@pytest.mark.parametrize("error", [ALLOCATION, MemoryError()], ids=["torch", "Python"])
def test_running_out_of_memory_says_what_to_do(error, small, monkeypatch):
    def full(*_):
        raise error

    data = container.encode(small, IMAGE)
    monkeypatch.setattr(small, "compress", full)
    with pytest.raises(RuntimeError, match=r"mean-scale-small ran out of memory .*cut the picture into tiles"):
        container.encode(small, IMAGE)
    monkeypatch.setattr(small, "decompress", full)
    with pytest.raises(RuntimeError, match="ran out of memory"):
        container.decode(small, data)


# --- every codec ---------------------------------------------------------------------------------------------------------

PLAIN = ("png", "jpeg", "webp", "avif", "hevc", "vvc")
EXAMPLES = {"png": 3, "jpeg": 3, "webp": 3, "avif": 30, "hevc": 30, "vvc": 60, "mean-scale-small": 30}


def some(name):
    return settings(max_examples=max(2, settings.default.max_examples // EXAMPLES.get(name, 200)))


CODERS = {}


def coder(name):
    if name not in CODERS:
        CODERS[name] = (
            fresh(name) if zoo.CODECS[name].network else zoo.load(name, 40 if zoo.CODECS[name].setting else None)
        )
    return CODERS[name]


@pytest.mark.parametrize("name", [name for name, codec in zoo.CODECS.items() if not codec.video])
def test_every_codec_gives_back_a_picture_of_any_size(name):
    @some(name)
    @given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**31))
    def comes_back(height, width, seed):
        codec, x = coder(name), torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))
        data = container.encode(codec, x)
        x_hat = container.decode(codec, data)
        assert x_hat.shape == x.shape and x_hat.dtype == torch.float32 and 0 <= x_hat.min() <= x_hat.max() <= 1
        assert name != "png" or torch.equal(x_hat, (x * 255).round() / 255)

    comes_back()


def changed(draw, content):
    """A file with some bytes changed, left out or added."""
    kind, data = draw(st.sampled_from(["change", "cut", "drop", "add", "zeros"])), bytearray(content)
    at = draw(st.integers(0, len(data) - 1))
    if kind == "change":
        for _ in range(draw(st.integers(1, 4))):
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    elif kind == "cut":
        del data[at:]
    elif kind == "drop":
        del data[at : at + draw(st.integers(1, 9))]
    elif kind == "zeros":
        data[at : at + 40] = bytes(len(data[at : at + 40]))
    else:
        data[at:at] = draw(st.binary(min_size=1, max_size=9))
    return bytes(data)


FRAMES = IMAGE.expand(3, 3, 64, 64)
PICTURES = (*PLAIN, "mean-scale-small", "bmshj2018-factorized", "mbt2018", "tcm-tiny")


def written(name):
    """A file of a codec, and what decodes it."""
    if name in PICTURES:
        return container.encode(coder(name), IMAGE[:, :33, :40]), partial(container.decode, coder(name))
    if name == "nerv":
        return nerv.encode_video(FRAMES, nerv.fitting(64, 64, 2)), nerv.decode_video
    return zoo.load(name, 40).encode_video(FRAMES), zoo.load(name, 40).decode_video


@pytest.mark.parametrize("name", [*PICTURES, "hevc-inter", "vvc-inter", "nerv"])
@pytest.mark.parametrize("forged", [False, True], ids=["damaged", "forged"])
def test_a_changed_file_of_any_codec_raises_bitstream_error_or_gives_a_picture(name, forged):
    """With its checksum put right too, where it has one: then no more than a crash, a hang or much memory is excluded."""
    content, read = written(name)
    sealed = name not in ("png", "jpeg", "webp", "avif")
    expected, before = read(content), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(max_examples=max(4, settings.default.max_examples // (4 if name in ("png", "jpeg", "webp") else 30)))
    @given(st.data())
    def holds(data):
        found = changed(data.draw, content[:-4] if forged and sealed else content)
        if found in (content, content[:-4]):
            return
        try:
            x_hat = read(container.sealed(found) if forged and sealed else found)
        except BitstreamError:
            return
        assert x_hat.isfinite().all() and x_hat.shape[-3] == 3
        assert forged or not sealed or torch.equal(x_hat, expected)

    holds()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 500e6


# --- judges --------------------------------------------------------------------------------------------------------------

JUDGES = {
    "mask-rcnn": lambda: SmallMaskRCNN({1: "thing"}, size=64).eval(),
    "mask-rcnn-r50": lambda: COCORCNN(True, 64, 100).eval(),
    "yolov5": lambda: YOLOv5().eval(),
    "panoptic-deeplab": lambda: PanopticDeepLab({1: "thing", 2: "ground"}, things=[1]).eval(),
}


@pytest.fixture(scope="module", params=JUDGES)
def judge(request):
    torch.manual_seed(0)
    return JUDGES[request.param]()


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1), (3, 900)])
def test_a_judge_looks_at_pictures_of_any_size(size, judge):
    (found,) = judge.detect([torch.rand(3, *size)])
    assert (found["boxes"] >= 0).all() and (found["boxes"][:, 2:] <= torch.tensor([size[1], size[0]])).all()
    assert "masks" not in found or found["masks"].shape[1:] == size


WRONG = torch.full((3, 8, 8), torch.nan), torch.ones(3, 8, 8) / 0, torch.ones(3, 0, 8), torch.ones(1, 8, 8)


@pytest.mark.parametrize("wrong", WRONG, ids=["nan", "inf", "empty", "grey"])
def test_a_judge_refuses_what_is_no_picture(wrong, judge):
    with pytest.raises(ValueError, match="image "):
        judge.detect([wrong])


def test_a_detector_trains_on_a_picture_one_pixel_high():
    torch.manual_seed(0)
    target = {
        "boxes": torch.tensor([[100.0, 0, 900, 1]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, 1, 2000).byte(),
    }
    losses = SmallMaskRCNN({1: "thing"}, size=64)([torch.rand(3, 1, 2000)], [target])
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1), (1, 1)])
def test_segment_anything_looks_at_pictures_of_any_size(size):
    pytest.importorskip("segment_anything")
    torch.manual_seed(0)
    found = sam.every_mask(sam.nano(64), torch.rand(3, *size), 0.01, points_per_side=2, stability_score_thresh=0.01)
    assert all(tuple(mask["rle"]["size"]) == size for mask in found)
    with pytest.raises(ValueError, match="NaN"):
        sam.every_mask(sam.nano(64), torch.full((3, 9, 9), torch.nan))


# --- outputs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def code(*words):
    cli.main(["code", *map(str, words)])


def test_two_inputs_never_write_one_file(photo, tmp_path):
    code(photo, "--codec", "hevc", "--quality", "40", "--out", tmp_path / "q")
    coded, other = tmp_path / "q" / "a.coded.icm", tmp_path / "q" / "a.decoded.png"
    before = coded.read_bytes()
    for words in (
        [photo, coded],
        [photo, photo],
        [photo, other, "--out", tmp_path / "q"],
        [coded, photo, "--out", tmp_path / "q"],
    ):
        with pytest.raises(SystemExit, match=r"would both need|named twice"):
            code(*words, *([] if "--out" in words else ["--out", tmp_path / "both"]))
    assert coded.read_bytes() == before and not list(tmp_path.glob("both/*"))


def test_a_missing_picture_leaves_no_folder(photo, tmp_path):
    with pytest.raises(SystemExit, match=r"absent\.png is missing: correct the path"):
        code(photo, tmp_path / "absent.png", "--out", tmp_path / "new")
    assert list(tmp_path.iterdir()) == [photo]


@pytest.mark.parametrize("how", [["--codec", "hevc", "--quality", "40"], ["--codec", "vvc", "--quality", "40"], []])
def test_a_coded_file_is_decoded_without_naming_its_codec(how, photo, tmp_path):
    code(photo, *how, "--out", tmp_path / "q")
    code(tmp_path / "q" / "a.coded.icm", "--out", tmp_path / "back")
    code(tmp_path / "q" / "a.coded.icm", "--codec", "jpeg", "--quality", "9", "--out", tmp_path / "again")
    pictures = {(tmp_path / folder / "a.decoded.png").read_bytes() for folder in ("q", "back", "again")}
    assert len(pictures) == 1


def test_a_coded_file_names_the_quality_of_a_network_that_has_several(photo, tmp_path):
    network, weights = zoo.load("bmshj2018-factorized", 2, weights=None), tmp_path / "mine.safetensors"
    network.update(force=True)
    networks.save(network, weights)
    code(photo, "--codec", "bmshj2018-factorized-q2", "--weights", weights, "--out", tmp_path)
    code(tmp_path / "a.coded.icm", "--weights", weights, "--out", tmp_path / "back")
    assert (tmp_path / "a.decoded.png").read_bytes() == (tmp_path / "back" / "a.decoded.png").read_bytes()


def test_a_coded_file_that_cannot_be_decoded_is_named(photo, tmp_path):
    code(photo, "--out", tmp_path)
    coded = tmp_path / "a.coded.icm"
    content = coded.read_bytes()
    for damage, told in (
        (content[:-9], "checksum differs"),
        (container.sealed(b"ICM\x01\x04mine" + content[21:-4]), "written by codec 'mine', which"),
        (b"ICM\x01\x04mine" + content[21:], "checksum differs"),
    ):
        coded.write_bytes(damage)
        with pytest.raises(SystemExit, match=f"{coded}: {told}"):
            code(coded, "--out", tmp_path / "back")
    coded.write_bytes(b"ICM\x01\x0cmbt2018-mean" + content[21:])
    with pytest.raises(SystemExit, match=f"{coded}: an older file of mbt2018-mean: name its quality"):
        code(coded, "--out", tmp_path / "back")


def test_a_long_name_is_coded_or_refused_before_the_work(photo, tmp_path, monkeypatch):
    fits, long = tmp_path / f"{'a' * 243}.png", tmp_path / f"{'b' * 250}.png"
    for path in (fits, long):
        path.write_bytes(photo.read_bytes())
    code(fits, "--codec", "png", "--out", tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 2
    monkeypatch.setattr(container, "encode", None)
    with pytest.raises(SystemExit, match=r"cannot write .*File name too long.*name another file"):
        code(long, "--codec", "png", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    "words",
    [
        ["code", "{photo}", "--codec", "png", "--out", "{photo}"],
        ["codec", "--out", "{photo}/a.safetensors"],
        ["detector", "--out", "{photo}/a.safetensors"],
        ["judge", "--out", "{photo}/a.json"],
    ],
    ids=lambda words: words[0],
)
def test_a_place_that_cannot_be_written_is_found_before_the_work(words, photo, monkeypatch):
    monkeypatch.setattr(container, "encode", None)
    monkeypatch.setattr(zoo, "load", None)
    monkeypatch.setattr(models, "load", None)
    with pytest.raises(SystemExit, match=r"error: cannot write .*(Not a directory|File exists)"):
        cli.main([word.format(photo=photo) for word in words] + (["--images", "1"] if words[0] == "judge" else []))


def test_a_network_larger_than_its_file_may_be_is_refused_before_training():
    with pytest.raises(ValueError, match=r"a network of 34811583 parameters .*Use fewer channels"):
        nerv.fitting(48, 64, 340)
    with pytest.raises(ValueError, match="up to 65535"):
        nerv.header((1, 3, 8, 8), nerv.NeRV((2, 2, 2), (4,), lower_width=2, stem_dim=2, reduction=70000))


def test_ascii_output_prints():
    ascii = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"}
    words = [sys.executable, "-m", "icm_helpers", "datasets", "list"]
    done = subprocess.run(words, env={**os.environ, **ascii}, capture_output=True, cwd=files.ROOT)
    assert done.returncode == 0 and b"scenes" in done.stdout


# --- trainings, records, curves ------------------------------------------------------------------------------------------


def write_coco(folder, colour, names=("a.png", "b.png")):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (20, 20), colour).save(folder / "images" / name)
    images = [{"id": i, "file_name": name, "width": 20, "height": 20} for i, name in enumerate(names, 1)]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    (folder / "a.json").write_text(json.dumps(content))
    return folder / "images", folder / "a.json"


def test_what_crops_are_cut_from_is_told_by_names_sizes_and_annotations(tmp_path):
    first, same = (CocoDataset(*write_coco(tmp_path / k, "red")) for k in "12")
    assert Crops(first, 8, 0, 9).identity == Crops(same, 8, 1, 3).identity != ""
    (tmp_path / "2" / "images" / "a.png").write_bytes((tmp_path / "1" / "images" / "a.png").read_bytes() + b"0")
    others = [CocoDataset(*write_coco(tmp_path / "3", "red", ("a.png", "c.png")))]
    others += [CocoDataset(first.images, first.annotations, limit=1)]
    found = {d.identity for d in (first, CocoDataset(same.images, same.annotations), *others)}
    assert len(found) == 4


def test_a_training_goes_on_with_the_data_that_it_began_with_alone(tmp_path):
    these, others = Noise(4), Noise(4)
    these.identity, others.identity = "these", "others"
    fit(trainable(), 2, tmp_path, these)
    fit(trainable(), 2, tmp_path, these)
    with pytest.raises(ValueError, match="data 'these' there, 'others' here"):
        fit(trainable(), 2, tmp_path, others)
    state = torch.load(tmp_path / "training.ckpt", weights_only=True)
    del state["recipe"]["data"]  # as older ones
    train.save(state, tmp_path / "training.ckpt")
    fit(trainable(), 2, tmp_path, others)


def test_a_copy_without_git_inside_another_repository_has_no_commit(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "copy").mkdir()
    monkeypatch.setattr(files, "ROOT", tmp_path / "copy")
    assert results.provenance("cpu")["commit"] == "unknown"


def test_two_points_of_one_rate_are_merged():
    def curve(bpp, metric):
        return bd.Curve("a", *(np.array(v, float) for v in (bpp, metric, [bpp] * 3, [metric] * 3)))

    one = curve([0.1, 0.2, 0.2, 0.4], [0.1, 0.25, 0.35, 0.4])
    merged, other = curve([0.1, 0.2, 0.4], [0.1, 0.3, 0.4]), curve([0.1, 0.25, 0.4], [0.2, 0.35, 0.5])
    assert bd.bd_metric(other, one) == bd.bd_metric(other, merged)
    assert bd.bd_metric(other, one).value < 0
    assert np.isnan(bd.bd_metric(other, curve([0.2, 0.2], [0.1, 0.3])).value)
