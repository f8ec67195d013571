"""The SA-ICM authors' files, judged beside their own table: in their formats, with random weights, on a miniature of COCO."""

import pytest
import torch

from icm_helpers import cli, known
from icm_helpers.codecs import zoo
from icm_helpers.data import miniatures
from icm_helpers.tasks import random_weights


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """`sa-icm_0.05.pth.tar`, a checkpoint of a training on several GPUs, and a YOLOv5's pickle; and the folder of COCO."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    state = {f"module.{name}": value for name, value in zoo.load("tcm-tiny", weights=None).state_dict().items()}
    checkpoint = {"epoch": 50, "state_dict": state, "loss": torch.tensor(1.0), "optimizer": {"state": {}}}
    torch.save(checkpoint, folder / "sa-icm_0.05.pth.tar")
    random_weights.write(folder, ["yolov5m"])
    miniatures.coco(folder / "coco", {"val": (1_000_000, 1_000_001)}, 64)
    return folder


def words(files, *more):
    weights, detector = files / "sa-icm_0.05.pth.tar", files / "yolov5m.pt"
    return ["known", "--weights", str(weights), "--detector", str(detector), "--device", "cpu", *more]


def test_published_files_are_judged_and_set_beside_the_published_table(files, monkeypatch, capsys):
    monkeypatch.setenv("ICM_COCO", str(files / "coco"))
    cli.main(words(files, "--lmbda", "0.05", "--images", "2"))
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["lambda", "bpp", "theirs"] and row.split()[0::2][:2] == ["0.05", "0.227"]
    assert float(row.split()[1]) > 0 and row.endswith(" 41.9  not comparable: 2 of 5000 pictures")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lmbda", "0.07"], r"--lmbda \(0.07,\): give one for each file, of 0.02, 0.03"),
        (["--lmbda", "0.05", "0.06"], r"1 --weights, --lmbda \(0.05, 0.06\)"),
        (["--lmbda", "0.05", "--detector", "none.pt"], r"weight file none.pt is missing"),
        (["--lmbda", "0.05", "--weights", "none.pth.tar"], r"no weights at none.pth.tar"),
    ],
)
def test_wrong_words_are_refused_before_a_picture_is_read(more, message, files, monkeypatch):
    monkeypatch.setattr(known.datasets, "load", None)
    with pytest.raises(SystemExit, match=message):
        cli.main(words(files, *more))


def test_a_verdict_names_what_differs_by_more_than_other_software_may_make():
    for lmbda, (rate, points) in known.PUBLISHED.items():
        assert (
            known.verdict(rate, points, lmbda, 5000)
            == known.verdict(0.98 * rate, points + 0.4, lmbda, 5000)
            == "agrees"
        )
        assert known.verdict(1.05 * rate, points, lmbda, 5000) == "differs: rate +5.0 %"
        assert known.verdict(rate, points - 2, lmbda, 5000) == "differs: mAP -2.0 points"
