"""The command line: every command explains itself, codes real pictures, and answers a bad one with one line."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from icm_helpers import chapters, cli, files, losses, masks, objectives, options, run
from icm_helpers.codecs import nerv, zoo
from icm_helpers.codecs.classical import Jpeg
from icm_helpers.data import datasets
from icm_helpers.ledger import recipe as recipes
from icm_helpers.ledger import results
from icm_helpers.ledger.recipe import Accuracy, Classical, Pictures, Recipe, Trained, Training
from icm_helpers.losses import nerv_loss, sa_nerv_loss
from icm_helpers.tasks import training

WEIGHTS = str(run.CHECKPOINTS / "start-coco-mini.safetensors")


@pytest.fixture
def picture(tmp_path):
    """A smooth picture of 40 x 56 pixels."""
    y, x = np.mgrid[:40, :56]
    path = tmp_path / "photo.png"
    Image.fromarray(np.stack([4 * x, 6 * y, 255 - 4 * x], axis=-1).astype(np.uint8)).save(path)
    return path


COMMANDS = [
    *([] if isinstance(c, dict) else [name] for name, c in cli.COMMANDS.items()),
    *([name, sub] for name, c in cli.COMMANDS.items() if isinstance(c, dict) for sub in [*c, ""]),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: "-".join(c) or "icm")
def test_every_command_has_a_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*filter(None, command), "--help"])
    assert stop.value.code == 0
    assert f"usage: {' '.join(['icm', *filter(None, command)])}" in capsys.readouterr().out


def test_a_terminal_of_ascii_is_printed_to():
    ascii = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "icm_helpers", "datasets", "list"]
    shown = subprocess.run(command, env=ascii, cwd=files.ROOT, capture_output=True, check=True).stdout
    assert b"coco2017" in shown and shown.isascii()


def test_help_is_there_before_anything_heavy():
    heavy = "{'torch', 'cv2', 'compressai', 'pandas', 'numpy', 'scipy', 'PIL', 'submitit', 'lightning_fabric', 'matplotlib'}"
    code = f"import sys; from icm_helpers import cli; cli.parsed(['codec', '--out', 'a']); print({heavy} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=files.ROOT) == "set()\n"


@pytest.mark.parametrize(
    ("how", "suffix"),
    [(["--codec", "jpeg", "--quality", "50"], "jpg"), (["--weights", WEIGHTS], "icm")],
    ids=["jpeg", "codec"],
)
def test_code_writes_the_bytes_and_the_decoded_picture(how, suffix, picture, tmp_path, capsys):
    cli.main(["code", str(picture), "--out", str(tmp_path), *how])
    coded, decoded = tmp_path / f"photo.coded.{suffix}", tmp_path / "photo.decoded.png"
    assert f"photo.png: {coded.stat().st_size} bytes, " in capsys.readouterr().out
    original, found = (np.asarray(Image.open(p)).astype(float) for p in (picture, decoded))
    assert found.shape == (40, 56, 3) and np.abs(found - original).mean() < 25
    if suffix == "icm":  # the bytes and the codec are enough
        cli.main(["code", str(coded), "--out", str(tmp_path / "back"), *how])
        assert (tmp_path / "back" / "photo.decoded.png").read_bytes() == decoded.read_bytes()


def test_code_never_overwrites_the_picture_it_codes(picture):
    photo = picture.with_suffix(".jpg")
    Image.open(picture).save(photo, quality=95)
    before = photo.read_bytes()
    cli.main(["code", str(photo), "--out", str(photo.parent), "--codec", "jpeg", "--quality", "20"])
    assert photo.read_bytes() == before


def test_code_shows_a_photograph_as_its_exif_says(picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned by a quarter, clockwise
    Image.open(picture).save(picture, exif=exif)
    cli.main(["code", str(picture), "--out", str(tmp_path / "out"), "--codec", "png"])
    assert Image.open(tmp_path / "out" / "photo.decoded.png").size == (40, 56)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--codec", "jpeg", "--quality", "50", "--weights", "a.safetensors"], "error: jpeg has no weights"),
        (["--codec", "png", "--quality", "50"], "error: png has nothing to set: leave quality out"),
        (["elsewhere/photo.jpg", "--codec", "png"], "error: .*photo.jpg and .*photo.png would both need"),
    ],
)
def test_code_refuses_what_it_would_have_to_ignore_or_overwrite(words, message, picture, tmp_path):
    with pytest.raises(SystemExit, match=message):
        cli.main(["code", str(picture), *words, "--out", str(tmp_path)])


@pytest.mark.parametrize("damage", ["text", "truncated", "missing"])
def test_a_corrupt_picture_is_one_clear_line(damage, picture, tmp_path):
    whole = picture.read_bytes()
    picture.write_bytes(b"no picture" if damage == "text" else whole[: len(whole) // 2])
    if damage == "missing":
        picture.unlink()
    with pytest.raises(SystemExit) as stop:
        cli.main(["code", str(picture), "--codec", "jpeg", "--quality", "50", "--out", str(tmp_path / "out")])
    assert str(stop.value).startswith("error: ") and str(picture) in str(stop.value)
    assert "\n" not in str(stop.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("video a.avi --density 3", "error: --density 3.0: must be above 0 and at most 1"),
        ("video a.avi --bits 20", "error: --bits 20: must be a whole number from 2 to 8"),
        ("video a.avi --tune-epochs -1", "error: --tune-epochs -1: must be a whole number, 0 or more"),
        (
            "video a.avi --loss sa-nerv --segmenter nano-sam --alpha 0.3",
            "error: alpha is 0.3: masks are stored from 0.48",
        ),
        ("codec --out a.pt", "error: --out a.pt: weights are written as .safetensors, so name it a.safetensors"),
        ("codec --out a.safetensors --scale=-1", "error: --scale -1.0: must be a number, 0 or more"),
        ("masks make --stability 7", "error: --stability 7.0: must be above 0 and at most 1"),
        ("code a.png --codec nerv", "error: nerv codes videos, not pictures: use `icm video`"),
        ("complexity --weights a.pt", "error: --weights and --quality are of one network: name it"),
        ("cost sa_nerv --data nowhere", "error: no run matches --data nowhere: there is data"),
        ("codec --out a.safetensors --steps 0", "error: --steps 0: must be a whole number above zero"),
        ("codec --out a.safetensors --lmbda -1", "error: --lmbda -1.0: must be a number above zero"),
        ("codec --out a.safetensors --loss sa-icm --alpha 1", "error: --alpha 1.0: must be a number between 0 and 1"),
        ("sam --steps 1 1 0 1 1", "error: --steps 0: must be a whole number above zero"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(words, message, monkeypatch):
    monkeypatch.setattr(zoo, "load", lambda *_, **__: None)
    with pytest.raises(SystemExit, match=message):
        cli.main(words.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("codec --out a.safetensors --alpha 0.9", "error: --loss mse has no --alpha; it takes no options"),
        (
            "codec --out a.safetensors --loss task --levels p2",
            "error: --loss task has no --levels; it takes --teacher, --task-weight",
        ),
        (
            "codec --out a.safetensors --loss sa-icm --data coco2017",
            "error: --loss sa-icm on coco2017 needs --segmenter, such as sam-vit-b",
        ),
        ("codec --out a.safetensors --loss distill --teacher nobody", "error: no model is called 'nobody'"),
        (
            "video a.avi --codec vvc-inter --quality 40 --beta 0.5",
            "error: vvc-inter is trained for no loss: leave --loss",
        ),
        ("video a.avi --loss sa-nerv", "error: --loss sa-nerv on a film needs --segmenter"),
    ],
)
def test_an_option_that_a_loss_does_not_have_or_needs_is_one_clear_line(words, message):
    with pytest.raises(SystemExit, match=message):
        cli.main(words.split())


def test_a_loss_has_the_options_that_its_class_has_and_the_books_defaults():
    def loss(words: str):
        command = cli.parsed(["codec", "--out", "a.safetensors", *words.split()])
        return options.loss_of(command.loss, command.options, command.data)

    nano, small, photo = "nano-sam@d7519e8d", "mask-rcnn-small@9fd0ed3f", "yolov5n@ff6f13e9"
    assert loss("--loss sa-icm") == objectives.SAICM(nano, 0.93)
    assert loss("--loss sa-icm --alpha 0.5 --dilate 1") == objectives.SAICM(nano, 0.5, dilate=1)
    assert loss("--loss task --data coco-mini --task-weight 8") == objectives.Task(photo, 8.0)
    assert loss("--loss distill-objectness --temperature 2") == objectives.DistillObjectness(small, temperature=2.0)


def test_defaults_that_the_command_line_states_are_those_of_the_book():
    how = cli.parsed(["finetune", "--out", "a.safetensors"])
    assert (how.steps, how.batch, how.lr) == (training.FINETUNE.steps, training.FINETUNE.batch, training.FINETUNE.lr)
    recipe = Accuracy(())
    assert (how.batch, how.lr, how.images) == (recipe.finetune_batch, recipe.finetune_lr, recipe.finetune_images)
    assert cli.parsed(["masks", "make"]).alpha == masks.LEAST


def test_what_a_module_of_ones_own_registers_is_known_to_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine_icm.py").write_text(
        "from dataclasses import dataclass\nfrom icm_helpers import objectives\n"
        "@objectives.register\n@dataclass(frozen=True)\nclass Mine(objectives.Loss):\n"
        "    name, label = 'mine', 'Mine'\n    power: float\n"
    )
    monkeypatch.setattr(objectives, "LOSSES", dict(objectives.LOSSES))
    monkeypatch.setattr(sys, "path", [*sys.path])
    words = cli.imported(["codec", "--out", "a.safetensors", "--loss=mine_icm:mine", "--power", "3"])
    assert words[3] == "--loss=mine"
    assert cli.imported(["codec", "--loss", "mine_icm:mine"]) == ["codec", "--loss", "mine"]
    assert cli.imported(["judge", "--detector", "yolov5n", "mine_icm:mine"])[3] == "mine"
    assert cli.imported(["judge", "--roi", "mine_icm:mine", "elsewhere:x.png"]) == [
        "judge",
        "--roi",
        "mine",
        "elsewhere:x.png",
    ]
    command = cli.parsed(words)
    assert vars(options.loss_of(command.loss, command.options, command.data)) == {"power": 3.0}
    with pytest.raises(SystemExit, match="error: --loss mine needs --power"):
        cli.main(words[:-2])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--patch", "100"], "--patch 100: mean-scale-small takes multiples of 64"),
        (
            ["--loss", "distill", "--teacher", "panoptic-deeplab-scenes"],
            "panoptic-deeplab-scenes cannot teach --loss distill",
        ),
        (
            ["--loss", "task", "--teacher", "panoptic-deeplab-scenes"],
            "panoptic-deeplab-scenes cannot teach --loss task",
        ),
        (["--codec", "jpeg"], "jpeg has no weights"),
        (["--out", "."], "cannot write . .it is a folder"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_any_step(words, message):
    with pytest.raises(SystemExit, match=message):
        cli.main(
            ["codec", "--train-images", "2", "--size", "128", "--steps", "1", "--out", "never.safetensors", *words]
        )


def test_a_teacher_that_calls_things_otherwise_is_refused_before_any_step(real_data):
    words = "codec --train-images 2 --data coco-mini --loss task --teacher mask-rcnn-small --out never.safetensors"
    with pytest.raises(SystemExit, match=r"error: .* but mask-rcnn-small does not know this category"):
        cli.main(words.split())


def test_a_picture_that_cannot_be_written_whole_leaves_the_one_before(picture, tmp_path, monkeypatch):
    words = ["code", str(picture), "--codec", "png", "--out", str(tmp_path / "out")]
    cli.main(words)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(path: Path, data: bytes) -> None:
        path.touch()
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SystemExit, match=r"cannot write .*photo\.coded\.png .*no space left"):
        cli.main(words)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_jpeg_quality_of_zero_is_refused(picture, tmp_path):
    with pytest.raises(SystemExit, match=r"error: (jpeg|JPEG) quality is a whole number from 1 to 100, not 0"):
        cli.main(["code", str(picture), "--codec", "jpeg", "--quality", "0", "--out", str(tmp_path)])


@pytest.fixture
def film(tmp_path):
    """A video file of 5 frames of 48 x 64, in which a square moves."""
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for k in range(5):
        frame = np.full((48, 64, 3), 80, np.uint8)
        frame[10:30, 5 + 4 * k : 25 + 4 * k] = (40, 160, 220)
        writer.write(frame)
    writer.release()
    return path


@pytest.fixture
def coded_film(film, tmp_path, monkeypatch, capsys):
    """Codes the film with some words, and gives the file, the frames decoded from it, and what was said."""
    monkeypatch.setattr(run, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")

    def code(*words: str) -> tuple[bytes, list[np.ndarray], str]:
        out = tmp_path / "out"
        cli.main(["video", str(film), "--frames", "4", "--height", "36", "--out", str(out), *words])
        (coded,) = out.glob(f"film.coded.{'hevc' if 'hevc-inter' in words else 'nrv'}")
        frames = [np.asarray(Image.open(p)) for p in sorted((out / "film.decoded").iterdir())]
        return coded.read_bytes(), frames, capsys.readouterr().out

    return code


SHORT = ["--epochs", "60", "--tune-epochs", "5", "--channels", "6"]


@pytest.mark.parametrize("how", [["--codec", "hevc-inter", "--quality", "30"], SHORT], ids=["hevc", "nerv"])
def test_video_writes_one_file_and_the_frames_decoded_from_it(how, coded_film, tmp_path):
    data, frames, said = coded_film(*how)
    assert f"4 frames of 36 x 48, {len(data)} bytes, " in said
    assert len(frames) == 4 and all(frame.shape == (36, 48, 3) for frame in frames)
    assert float(said.split(" bpp, ")[1].split(" dB")[0]) > 20  # a grey picture has 16
    assert said.startswith("only the first 4 frames of ")
    cli.main(["video", str(next((tmp_path / "out").glob("film.coded.*"))), "--out", str(tmp_path / "back")])
    again = sorted((tmp_path / "back" / "film.decoded").iterdir())
    assert all(np.array_equal(np.asarray(Image.open(path)), frame) for path, frame in zip(again, frames, strict=True))
    if "hevc-inter" not in how:  # the file alone is the video
        drawn = (nerv.decode_video(data) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        assert np.array_equal(drawn, np.stack(frames))


def test_edges_change_what_a_network_learns(coded_film, tmp_path, monkeypatch):
    few = ["--epochs", "2", "--tune-epochs", "0", "--channels", "6", "--frames", "1"]
    looked_twice = []
    monkeypatch.setattr(losses, "sa_nerv_loss", lambda *a, **k: looked_twice.append(a) or sa_nerv_loss(*a, **k))
    edged, plain = (coded_film(*few, *more)[0] for more in (["--loss", "sa-nerv", "--segmenter", "nano-sam"], []))
    assert edged != plain and looked_twice[0][2].shape == (1, 1, 36, 48)
    assert len(list((tmp_path / "cache").glob("masks-film-*-nano/*.json.gz"))) == 1


def test_a_network_that_could_not_be_written_is_not_trained_again(coded_film, tmp_path, monkeypatch):
    real = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda self, data: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(SystemExit, match=r"no space left.*the same command continues"):
        coded_film(*SHORT)
    assert list((tmp_path / "runs").rglob("training.ckpt"))
    monkeypatch.setattr(Path, "write_bytes", real)
    steps = []
    monkeypatch.setattr(losses, "nerv_loss", lambda *a, **k: steps.append(a) or nerv_loss(*a, **k))
    coded_film(*SHORT)
    assert not steps and not list((tmp_path / "runs").rglob("training.ckpt"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no.mp4"], "error: video no.mp4 is missing"),
        (["text.mp4"], "error: .*text.mp4 cannot be decoded as a video"),
        (["text.mp4", "--codec", "vvc-inter"], "error: vvc-inter needs a quality"),
        (["text.mp4", "--quality", "40"], "error: nerv has nothing to set: leave quality out"),
    ],
)
def test_a_video_that_cannot_be_coded_is_one_clear_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(SystemExit, match=message):
        cli.main(["video", *words])


def test_judge_states_what_each_rate_costs_and_is_worth_and_measures_nothing_twice(tmp_path, monkeypatch, capsys):
    out = tmp_path / "judged.json"
    words = ["judge", "--codec", "jpeg", "--quality", "10", "80", "--images", "2", "--size", "64", "--out", str(out)]
    cli.main(words)
    said = capsys.readouterr().out.splitlines()
    low, high = (line for line in said if line.startswith("jpeg "))
    bpp, db = zip(*([float(word) for word in line.split() if "." in word] for line in (low, high)), strict=True)
    assert bpp[0] < bpp[1] and db[0] < db[1]
    assert sum("box AP of mask-rcnn-small" in line for line in said) == 4  # at each rate, uncompressed, and the BD-rate
    assert said[-1] == "  the book measured nothing on these 2 pictures with this detector"
    monkeypatch.setattr(run.evaluate, "evaluate", None)
    cli.main(words)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("jpeg ")] == [low, high]


def test_judge_compares_with_the_book_on_its_own_pictures(tmp_path, monkeypatch, capsys):
    """As if the book's own JPEG were somebody's codec: it needs as many bits as itself, and more than HEVC."""
    scenes, *_ = chapters.named("object_region_mse").studies()
    mine = [results.read(r) for r in scenes.recipes() if r.kind == "classical" and r.codec.codec == "jpeg"]
    monkeypatch.setattr(run, "clean", lambda *_: [])
    monkeypatch.setattr(run.evaluate, "average_precision", lambda *_: ({"ap": 0.0}, []))
    given = iter(mine)
    monkeypatch.setattr(run.evaluate, "evaluate", lambda *_, **__: [(r := next(given)).result, r.bootstrap])
    cli.main(["judge", "--codec", "jpeg", "--quality", *(str(r.recipe.codec.quality) for r in mine)])
    said = capsys.readouterr().out.split("BD-rate [%] by box AP of mask-rcnn-small")[1].splitlines()
    told = dict(line.split(maxsplit=1) for line in said[1:] if line.startswith("  "))
    assert float(told["jpeg"].split()[0]) == pytest.approx(0, abs=1e-6) and told["hevc"].startswith("+")
    assert {"mse", "object-region", "sa-icm-0.93", "distill-objectness"} <= told.keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", "a", "b", "--quality", "1", "2", "3"], "2 --weights and 3 --quality: give one of each"),
        (
            ["--codec", "png", "--detector", "yolox-nano=mine.pt"],
            "yolox-nano=mine.pt: weights of your own may be those of mask-rcnn",
        ),
        (["--codec", "png", "--detector", "nobody"], "no detector is called 'nobody'; known: mask-rcnn-small"),
        (["--codec", "png", "--out", __file__], "was not written by `judge`, or is damaged"),
    ],
)
def test_judge_refuses_what_it_cannot_compare(words, message):
    with pytest.raises(SystemExit, match=message):
        cli.main(["judge", "--images", "2", "--size", "64", *words])


def test_grid_lists_the_runs_and_says_which_are_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recipes, "LEDGER", tmp_path)
    cli.main(["grid", "object_region_mse", "--data", "coco-mini", "--list"])
    *lines, last = capsys.readouterr().out.splitlines()
    assert all(line.startswith("missing ") and "coco-mini" in line for line in lines)
    assert last == f"{len(lines)} runs, 0 in the ledger, {len(lines)} to measure"
    with pytest.raises(SystemExit, match=r"--only no_such"):
        cli.main(["grid", "object_region_mse", "--only", "no_such"])


def test_grid_takes_a_share_of_the_runs():
    assert options.share("2/3") == (2, 3)
    for text in ("3/2", "0/2", "half", "1"):
        with pytest.raises(SystemExit, match=f"error: --part '{text}' is not a part: write 1/2 for the first of two"):
            cli.main(["grid", "object_region_mse", "--part", text])


def test_a_classical_codec_without_a_quality_is_refused(picture, tmp_path):
    with pytest.raises(SystemExit, match="webp needs a quality: from 1"):
        cli.main(["code", str(picture), "--codec", "webp", "--out", str(tmp_path)])


TRAINING = Training("start-coco-mini@00000000", 1, 1, 64, 1e-3, "none", "32-true", 1)


def test_other_start_weights_than_the_recipe_says_are_refused():
    codec = Trained("mean-scale-small", objectives.MSE(), 0.01, TRAINING)
    with pytest.raises(ValueError, match="starts from 00000000: other weights"):
        run.start(Recipe("c", Pictures("scenes", 1, 64), codec, Accuracy(())))


def test_a_recipe_names_its_classical_codec():
    recipe = Recipe("c", Pictures("scenes", 1, 64), Classical("jpeg", quality=35), Accuracy(()))
    assert run.start(recipe) == Jpeg(35)


@pytest.fixture
def scenes(tmp_path):
    return datasets.load("scenes", "train", size=64, limit=3, root=tmp_path)


def test_a_finished_training_leaves_no_checkpoint_for_the_next_of_its_name(scenes, tmp_path, monkeypatch):
    def fit(model, *_, folder, **__):
        folder.mkdir(parents=True)
        (folder / "training.ckpt").touch()
        return []

    monkeypatch.setattr(run, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(run.train, "fit", fit)
    monkeypatch.setattr(run.datasets, "load", lambda *_, **__: scenes)
    cli.main(["codec", "--out", str(tmp_path / "mine.safetensors"), "--steps", "1"])
    assert (tmp_path / "mine.safetensors").exists()
    assert not list((tmp_path / "runs").rglob("*.ckpt"))
