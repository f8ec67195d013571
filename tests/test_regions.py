"""Regions of interest: bits move where an encoder is told, and the decoder is told nothing."""

import copy
import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from compressai.models import MeanScaleHyperprior
from PIL import Image

from icm_helpers import cli, evaluate, regions, run
from icm_helpers.chapters import compare
from icm_helpers.codecs import container, ffmpeg, networks, regional, zoo
from icm_helpers.data import scenes
from icm_helpers.objectives import MSE, Objective, Regional
from icm_helpers.tasks import models

IMAGE = torch.from_numpy(scenes.scene(7, 192).image).permute(2, 0, 1).float() / 255
LEFT = torch.zeros(1, 192, 192)
LEFT[..., :96] = 1
WITH_FFMPEG = pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is None, reason="needs the extra `anchors`")
LOW_PASSED = [
    pytest.param(name, setting, marks=WITH_FFMPEG if name in ("hevc", "vvc") else ())
    for name, setting in (("jpeg", 40), ("avif", 40), ("hevc", 32), ("vvc", 38))
]


def psnr(x_hat, where):
    return -10 * torch.log10(((x_hat - IMAGE).square().mean(0) * where[0]).sum() / where.sum()).item()


@pytest.fixture(scope="module")
def learned():
    """The learned codec as its training starts, with modulations that do something."""
    torch.manual_seed(0)
    codec = zoo.load("mean-scale-roi")
    for modulation in codec.g_a.modulations:
        torch.nn.init.normal_(modulation.net[-1].weight, std=0.05)
    networks.update_tables(codec, force=True)
    return codec


# --- by the quantiser, and by a low-pass ---------------------------------------------------------------------------------


@WITH_FFMPEG
def test_hevc_spends_bytes_inside_the_region_and_leaves_the_rest_as_it_was():
    codec, plain, better = ffmpeg.RegionalHevc(42), ffmpeg.Hevc(42), ffmpeg.Hevc(42 - ffmpeg.OFFSET)
    data = {"nowhere": codec.encode(IMAGE, 0 * LEFT), "left": codec.encode(IMAGE, LEFT), "all": codec.encode(IMAGE)}
    data |= {"plain": plain.encode(IMAGE), "better": better.encode(IMAGE)}
    assert len(data["nowhere"]) < len(data["left"]) < len(data["all"])
    assert len(data["nowhere"]) == pytest.approx(len(data["plain"]), rel=0.03)
    assert len(data["all"]) == pytest.approx(len(data["better"]), rel=0.01)
    inside, outside = ({k: psnr(plain.decode(v), where) for k, v in data.items()} for where in (LEFT, 1 - LEFT))
    assert inside["left"] - inside["plain"] > 3 and inside["left"] == pytest.approx(inside["better"], abs=0.3)
    assert outside["left"] == pytest.approx(outside["plain"], abs=0.3)


@WITH_FFMPEG
@pytest.mark.parametrize("size", [(1, 1), (7, 90), (50, 33)], ids=str)
def test_a_region_of_any_size_is_coded_and_a_plain_decoder_reads_it(size):
    image, roi = torch.rand(3, *size), torch.randint(2, (1, *size)).float()
    data = container.encode(zoo.load("hevc-roi", 40), image, roi)
    assert torch.equal(container.decode(zoo.load("hevc", 30), data), container.decode(zoo.load("hevc-roi", 20), data))


def test_rectangles_cover_a_set_of_blocks_once():
    blocks = torch.rand(9, 7) < 0.6
    count = torch.zeros(9, 7, dtype=torch.int)
    for x, y, w, h in ffmpeg.rectangles(blocks):
        count[y : y + h, x : x + w] += 1
    assert torch.equal(count, blocks.int())


@pytest.mark.parametrize(("name", "setting"), LOW_PASSED)
def test_a_low_passed_background_saves_bytes_and_leaves_the_inside(name, setting):
    codec, plain = zoo.load(f"{name}-lowpass", setting), zoo.load(name, setting)
    data, whole = container.encode(codec, IMAGE, LEFT), container.encode(plain, IMAGE)
    assert len(data) < 0.8 * len(whole) and container.encode(codec, IMAGE) == whole
    inner = LEFT.clone()
    inner[..., 80:] = 0  # away from the seam
    assert psnr(container.decode(plain, data), inner) == pytest.approx(psnr(plain.decode(whole), inner), abs=0.4)


def test_the_low_pass_changes_nothing_inside_and_takes_details_outside():
    smooth = regional.low_pass(IMAGE, LEFT)
    assert torch.equal(smooth[..., :96], IMAGE[..., :96])
    assert smooth[..., 97:].diff(dim=2).square().mean() < 0.2 * IMAGE[..., 97:].diff(dim=2).square().mean()


def test_a_region_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"region of interest of \(1, 96, 96\) for a picture of \(192, 192\)"):
        container.encode(zoo.load("jpeg-lowpass", 30), IMAGE, LEFT[..., :96, :96])


# --- learned -------------------------------------------------------------------------------------------------------------


def test_the_learned_codec_starts_as_what_it_extends_whatever_the_region():
    codec, plain = zoo.load("mean-scale-roi"), zoo.load("mean-scale-small")
    with torch.no_grad():
        told, untold, wanted = codec(IMAGE[None], LEFT[None]), codec(IMAGE[None]), plain(IMAGE[None])
    assert torch.equal(told["x_hat"], wanted["x_hat"]) and torch.equal(untold["x_hat"], wanted["x_hat"])


@pytest.mark.parametrize("size", [(1, 1), (37, 70), (64, 64)], ids=str)
def test_learned_bytes_of_any_size_decode_to_what_the_network_answers(size, learned):
    image, roi = torch.rand(3, *size), torch.randint(2, (1, *size)).float()
    x_hat = container.decode(learned, container.encode(learned, image, roi))
    padded = (container.pad(part[None], learned.downsampling_factor) for part in (image, roi))
    with torch.no_grad():
        wanted = learned(*padded)["x_hat"][0, :, : size[0], : size[1]].clamp(0, 1)
    torch.testing.assert_close(x_hat, wanted, atol=1e-4, rtol=0)


def test_the_region_decides_the_bytes_and_no_part_of_the_decoder_hangs_on_it(learned):
    coded = [learned.compress(IMAGE[None], roi[None]) for roi in (LEFT, 1 - LEFT)]
    assert coded[0]["strings"] != coded[1]["strings"]
    decoder = MeanScaleHyperprior(32, 48).eval()  # which knows of no region
    learned_state = {k: v for k, v in learned.state_dict().items() if not k.startswith("g_a.modulations.")}
    for key, buffer in decoder.named_buffers():
        buffer.resize_(learned_state[key].shape)
    decoder.load_state_dict(learned_state)
    first, second = (decoder.decompress(c["strings"], c["shape"])["x_hat"] for c in coded)
    assert torch.equal(first, learned.decompress(coded[0]["strings"], coded[0]["shape"])["x_hat"])
    assert not torch.equal(first, second)


def test_the_gradient_reaches_the_regions_layers(learned):
    codec = copy.deepcopy(learned).train()  # where noise stands for rounding, which has no gradient
    Objective(Regional(0.1), 0.01)(codec, (IMAGE[None], LEFT[None]))["loss"].backward()
    assert all(p.grad.abs().sum() > 0 for p in codec.g_a.modulations.parameters())


def test_the_regional_distortion_weighs_outside_by_a_ratio():
    x, x_hat = torch.rand(2, 1, 3, 8, 8).unbind()
    mask = (torch.rand(1, 1, 8, 8) < 0.5).float()
    whole = MSE().distortion(x_hat, x, mask)
    inside, outside = (Regional(w).distortion(x_hat, x, m) for w, m in ((0.0, mask), (0.0, 1 - mask)))
    torch.testing.assert_close(Regional(1.0).distortion(x_hat, x, mask), whole)
    torch.testing.assert_close(Regional(0.1).distortion(x_hat, x, mask), inside + 0.1 * outside)


def test_a_training_starts_the_same_twice_and_is_told_the_masks():
    recipe = compare.SMOKE_ROI.recipes()[0]
    first, second = (run.start(recipe).state_dict() for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)
    model = run.train_codec(recipe, None, progress=False)
    assert model.g_a.modulations[0].net[-1].weight.abs().sum() > 0


# --- who finds it --------------------------------------------------------------------------------------------------------


def test_an_encoder_asks_its_detector_and_tells_what_that_costs(monkeypatch):
    boxes, scores = torch.tensor([[0.0, 0, 96, 192], [100, 100, 150, 150]]), torch.tensor([0.9, 0.1])
    detector = SimpleNamespace(detect=lambda images: [{"boxes": boxes, "scores": scores}], to=lambda device: detector)
    monkeypatch.setattr(models, "load", lambda name: detector)
    encoder, sample = regions.Encoder("any", torch.device("cpu")), SimpleNamespace(image=IMAGE)
    assert torch.equal(encoder.find(IMAGE), LEFT)  # an unsure box does not count
    assert encoder(zoo.load("jpeg-lowpass", 30), sample) == zoo.load("jpeg-lowpass", 30).encode(IMAGE, LEFT)
    assert encoder.told()["encoder_time"] > 1
    assert regions.Encoder("truth", torch.device("cpu")).told() == {}


def test_objects_are_divided_into_those_that_a_detector_finds_and_the_others():
    def entry(image, box, category=1, **more):
        return {"image_id": image, "category_id": category, "bbox": box, **more}

    objects = [entry(1, [0, 0, 10, 10]), entry(1, [20, 20, 10, 10]), entry(2, [0, 0, 10, 10])]
    objects = [item | {"id": k, "area": 100, "iscrowd": 0} for k, item in enumerate(objects, start=1)]
    truth = {"images": [{"id": 1}, {"id": 2}], "categories": [{"id": 1, "name": "a"}], "annotations": objects}
    seen = [entry(1, [1, 0, 10, 10], score=0.9), entry(1, [20, 20, 10, 10], score=0.1)]  # the second is unsure
    found, missed = evaluate.division(truth, seen)
    assert [item["iscrowd"] for item in found["annotations"]] == [0, 1, 1]
    assert [item["iscrowd"] for item in missed["annotations"]] == [1, 0, 0]
    samples = np.array([[0, 1]])
    assert evaluate.average_precision(found, seen, samples=samples)[0]["ap50"] == pytest.approx(1)
    assert evaluate.average_precision(missed, seen, samples=samples)[0]["ap50"] == pytest.approx(0.5, abs=0.01)


def test_a_photo_is_coded_by_the_region_that_a_detector_finds_and_other_codecs_refuse_one(tmp_path):
    picture = tmp_path / "scene.png"
    Image.fromarray(scenes.scene(7, 192).image).save(picture)
    told = ["code", str(picture), "--quality", "30", "--roi", "yolov5n-scenes", "--out"]
    cli.main([*told, str(tmp_path / "roi"), "--codec", "jpeg-lowpass"])
    image = container.decode(zoo.load("png"), picture.read_bytes())
    roi = regions.finder("yolov5n-scenes")(image)
    written = (tmp_path / "roi" / "scene.coded.jpg").read_bytes()
    assert 0 < roi.mean() < 1 and written == container.encode(zoo.load("jpeg-lowpass", 30), image, roi)
    with pytest.raises(SystemExit, match="jpeg takes no region of interest"):
        cli.main([*told, str(tmp_path), "--codec", "jpeg"])
