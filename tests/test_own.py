"""Pictures, weights and records of anybody's own: opened by path, judged under a judge's names, compared."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from icm_helpers import cli, files, judged, run
from icm_helpers.codecs import networks, zoo
from icm_helpers.data import DataError, datasets, own
from icm_helpers.ledger.recipe import Accuracy, Recipe, Trained, Training
from icm_helpers.objectives import MSE
from icm_helpers.tasks import models
from icm_helpers.tasks.mask_rcnn import SmallMaskRCNN

SIZES = (64, 48), (40, 56), (96, 64)


@pytest.fixture(autouse=True)
def _registries(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "DATASETS", dict(datasets.DATASETS))
    monkeypatch.setattr(models, "MODELS", dict(models.MODELS))
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def photos(tmp_path):
    """A folder with pictures of three sizes, in `images`, and one file of annotations: a walker and a tree in each."""
    (tmp_path / "photos" / "images").mkdir(parents=True)
    images, annotations = [], []
    for k, (width, height) in enumerate(SIZES, start=1):
        pixels = np.full((height, width, 3), 60, np.uint8)
        pixels[8:30, 8:28] = 200
        Image.fromarray(pixels).save(tmp_path / "photos" / "images" / f"{k}.png")
        images.append({"id": k, "file_name": f"{k}.png", "width": width, "height": height})
        for category, box in ((7, [8, 8, 20, 22]), (9, [2, 2, 5, 5])):
            annotations.append({"id": len(annotations) + 1, "image_id": k, "category_id": category, "bbox": box})
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 7, "name": "walker"}, {"id": 9, "name": "tree"}, {"id": 11, "name": "kite"}]
    (tmp_path / "photos" / "labels.json").write_text(json.dumps(content))
    return tmp_path / "photos"


def test_a_folder_or_its_file_is_a_data_set_that_is_named_by_its_annotations(photos):
    name = own.named("./photos")
    assert name == f"photos-{files.fingerprint(photos / 'labels.json')}" == own.named(str(photos))
    assert [s.image.shape[1:] for s in datasets.load(name, "val")] == [(h, w) for w, h in SIZES]
    assert own.named("photos/labels.json").startswith("labels-") and own.named("scenes") == "scenes"
    (photos / "labels.json").write_text((photos / "labels.json").read_text().replace("kite", "kites"))
    assert own.named("./photos") not in (name, "./photos")


def test_a_folder_with_two_files_has_training_pictures_of_its_own(photos, caplog):
    datasets.load(own.named("./photos"), "train")
    assert "has no held-out pictures" in caplog.text
    for split in ("train", "valid"):
        shutil.copytree(photos / "images", photos / split)
        shutil.move(shutil.copy(photos / "labels.json", photos / "x.json"), photos / split / "_annotations.coco.json")
    (photos / "labels.json").unlink()
    caplog.clear()
    name = own.named("./photos")
    assert [datasets.load(name, split).images.name for split in ("train", "val")] == [
        "train",
        "valid",
    ] and not caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere", "no data set 'nowhere': use scenes, .*, or the path of a folder"),
        ("photos/images", r"has no file of annotations in COCO's format \(.json\): name the file"),
        ("./photos", r"has 2 files of annotations \(labels.json, more.json\): name the file that is meant"),
    ],
)
def test_a_path_that_is_no_data_set_is_one_clear_line(text, message, photos):
    shutil.copy(photos / "labels.json", photos / "more.json")
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        cli.main(["judge", "--codec", "png", "--data", text])


COCO = {1: "person", 38: "kite"}


def test_categories_are_called_as_the_judge_calls_them_and_what_is_left_out_is_said(photos, caplog):
    name = own.named("./photos")
    dataset = datasets.load(name, "val")
    found = datasets.load(own.mapped(name, dataset, ["walker=person"], "yolov5n", COCO), "val")
    assert found.categories == COCO and [s.labels.tolist() for s in found] == [[1]] * 3
    assert found.ids == dataset.ids and "left out, since yolov5n does not know them: 3 tree" in caplog.text
    assert (
        own.mapped(name, dataset, [], "mine", {7: "walker", 9: "tree"}) == name
    )  # an own detector knows them as they are
    renamed = own.mapped(
        name, dataset, ["walker=person", "tree=kite"], "yolov5n", {7: "person", 9: "kite"}
    )  # the same numbers
    assert datasets.load(renamed, "val").used_categories() == {7: "person", 9: "kite"}
    renumbered = datasets.load(own.mapped(name, dataset, [], "theirs", {1: "Walker", 2: "tree"}), "val")
    assert renumbered.used_categories() == {1: "Walker", 2: "tree"}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], r"annotates walker, tree, which yolov5n does not know: .* --map walker=person"),
        (["runner=person"], r"--map runner=person: .*labels.json has walker, tree, kite"),
        (["walker=man"], r"--map walker=man: yolov5n knows person, kite"),
    ],
)
def test_a_name_that_nobody_knows_is_refused(pairs, message, photos):
    with pytest.raises(DataError, match=message):
        own.mapped(own.named("./photos"), datasets.load(own.named("./photos"), "val"), pairs, "yolov5n", COCO)


def test_own_pictures_are_judged_by_an_own_detector_and_two_codecs_compared(photos, capsys):
    torch.manual_seed(0)
    SmallMaskRCNN({1: "walker", 2: "tree"}, size=64).save("judge.safetensors")
    detector = "mask-rcnn-small=judge.safetensors"
    for codec in ("jpeg", "webp"):
        words = ["--codec", codec, "--quality", "10", "50", "90", "--data", "./photos", "--detector", detector]
        cli.main(["judge", *words, "--out", f"{codec}.json"])
    assert "3 pictures of photos-" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"error: webp\.json holds rates of webp: give jpeg a file of its own"):
        cli.main(["judge", "--codec", "jpeg", *words[2:], "--out", "webp.json"])
    cli.main(["compare", "jpeg.json", "webp.json", "--out", "figure.svg"])
    said = capsys.readouterr().out
    table, gains = said.split("BD-rate [%] against jpeg")
    assert (
        len([line for line in table.splitlines() if line.endswith("]") and "dB" not in line]) == 6
    )  # three rates each
    assert "PSNR [dB]" in gains and f"box AP of {detector}" in gains and "<svg" in Path("figure.svg").read_text()
    record = json.loads(Path("webp.json").read_text())
    assert len(record[0]["bootstrap"]["psnr"]) == 200
    record[0]["asked"]["ids"] = [1, 2]
    Path("other.json").write_text(json.dumps(record[:1]))
    with pytest.raises(SystemExit, match=r"other.json holds other pictures than jpeg.json: judge all on the same ones"):
        cli.main(["compare", "jpeg.json", "other.json"])
    with pytest.raises(
        SystemExit, match=r"error: none.json is missing, or empty: `icm judge --out none.json` writes it"
    ):
        cli.main(["compare", "jpeg.json", "none.json"])


def test_a_detector_of_ones_own_can_teach(photos):
    SmallMaskRCNN({7: "walker", 9: "tree"}, size=64).save("judge.safetensors")
    words = ["--loss", "distill", "--teacher", "mask-rcnn-small=judge.safetensors"]
    command = cli.ready(cli.parsed(["codec", "--out", "a.safetensors", "--data", "./photos", *words]))
    loss = cli.loss_of(command.loss, command.options, command.data)
    assert loss.teacher == f"mask-rcnn-small=judge.safetensors@{files.fingerprint('judge.safetensors')}"
    assert loss.bind(torch.device("cpu")).network.categories == {7: "walker", 9: "tree"}
    with pytest.raises(ValueError, match="yolox-nano=x: weights of your own may be those of mask-rcnn-small"):
        models.fingerprinted("yolox-nano=x")


def test_a_codec_starts_from_a_file_of_ones_own(tmp_path):
    codec = zoo.load("mean-scale-small", weights=None)
    networks.save(codec, tmp_path / "mine.safetensors")
    start = f"{tmp_path / 'mine.safetensors'}@{files.fingerprint(tmp_path / 'mine.safetensors')}"
    how = Training(start, 1, 1, 64, 1e-3, "none", "32-true", 1)
    found = run.start(
        Recipe("mine", judged.Pictures("scenes", 1, 64), Trained("mean-scale-small", MSE(), 0.01, how), Accuracy(()))
    )
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), codec.parameters(), strict=True))
    with pytest.raises(SystemExit, match=r"weight file .*nowhere.*is missing"):
        cli.main(["codec", "--out", "a.safetensors", "--start", "nowhere.safetensors"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("codec --out . ", r"cannot write \. \(it is a folder\)"),
        ("detector --out photos", r"cannot write photos \(it is a folder\)"),
        ("judge --codec png --out photos/labels.json/x", r"cannot write photos/labels.json/x"),
        ("judge --weights none.safetensors", r"no weights at none.safetensors: correct the path"),
        ("finetune --out a.safetensors --detector yolox-nano", r"yolox-nano cannot be trained here; mask-rcnn-small"),
    ],
)
def test_what_cannot_end_well_is_refused_before_any_picture_is_drawn(words, message, photos, monkeypatch):
    monkeypatch.setattr(datasets, "load", None)
    with pytest.raises(SystemExit, match=f"error: {message}"):
        cli.main(words.split())


def test_a_device_that_is_not_there_is_refused_before_any_picture_is_drawn(monkeypatch):
    monkeypatch.setattr(datasets, "load", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for words in (
        "detector --out a.safetensors",
        "codec --out a.safetensors",
        "judge",
        "code x.png",
        "video x.mp4",
        "grid object_region_mse",
    ):
        with pytest.raises(SystemExit, match="error: --device cuda, but this machine shows no CUDA device"):
            cli.main([*words.split(), "--device", "cuda"])
