"""Hard knocks: a full disk, a folder that may not be written to, damaged and mistaken checkpoints, and being stopped anywhere."""

import builtins
import os
import resource
import signal
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import nbformat
import pytest
import test_build
import torch
from test_notebooks import CHAPTER
from test_train import codec, equal, fit

from icm_helpers import cli, run, train
from icm_helpers.data import datasets
from icm_helpers.data.crops import Crops
from icm_helpers.ledger import recipe as recipes
from icm_helpers.ledger import results
from icm_helpers.ledger.recipe import Accuracy, Classical, Pictures, Recipe

build = test_build.build  # the fixture: book/build.py as a module
RECIPE = Recipe("chapter", Pictures("scenes", 4, 64), Classical("png"), Accuracy(()))


@pytest.fixture(autouse=True)
def ledger(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "LEDGER", tmp_path / "ledger")


def write_record(recipe: Recipe) -> None:
    results.write(recipe, {"bpp": 0.5}, {"bpp": [0.4, 0.6] * 2000}, device="cpu", seconds=1.0)


@contextmanager
def disk_full_after(size: int):
    """Every file's writes fail after so many bytes, by the operating system's own limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 5_000, 100_000])
def test_a_disk_that_fills_up_under_a_checkpoint_leaves_the_one_before(size, tmp_path):
    path = tmp_path / "training.ckpt"
    train.save({"step": 1}, path)
    with disk_full_after(size), pytest.raises(OSError, match=f"cannot write {path} .*File too large.*free space"):
        train.save({"step": 2, "model": torch.rand(50_000)}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("knock", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "Ctrl-C"])
def test_a_training_that_could_not_write_a_checkpoint_goes_on_from_the_one_before_to_the_same_bits(
    knock, tmp_path, monkeypatch
):
    whole, resumed = codec(), codec()
    fit(whole, 6)
    fsync, calls = os.fsync, []

    def second_fails(file: int) -> None:
        calls.append(file)
        if len(calls) == 2:
            raise knock
        fsync(file)

    monkeypatch.setattr(os, "fsync", second_fails)
    with pytest.raises(type(knock)):
        fit(codec(), 6, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["training.ckpt"]
    assert torch.load(tmp_path / "training.ckpt", weights_only=True)["step"] == 2
    fit(resumed, 6, tmp_path)
    assert equal(whole, resumed)


def test_a_disk_that_fills_up_under_a_record_leaves_nothing_of_it(tmp_path):
    with disk_full_after(5_000), pytest.raises(OSError, match=f"cannot write {RECIPE.path} .*free space"):
        write_record(RECIPE)
    assert list(RECIPE.path.parent.iterdir()) == []
    write_record(RECIPE)  # and stands in the way of nothing


def test_a_folder_that_may_not_be_written_to_is_named(tmp_path, monkeypatch):
    """By refusing to create anything, since the permissions of a folder do not bind root."""

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    def read_only(path, mode="r", *rest, **named):
        return refuse(path) if "w" in mode else builtins.open(path, mode, *rest, **named)

    monkeypatch.setattr(train, "open", read_only, raising=False)
    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(OSError, match=f"cannot write {tmp_path / 'training.ckpt'} .*Permission denied.*writable"):
        fit(codec(), 2, tmp_path)
    with pytest.raises(OSError, match=f"cannot write {RECIPE.path} .*Permission denied.*writable"):
        write_record(RECIPE)
    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(OSError, match=f"Permission denied: .*{tmp_path / 'cache'}"):
        datasets.load("scenes", "val", size=64, limit=2, root=tmp_path / "cache")


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"PK" + b"x" * 50])
def test_a_damaged_checkpoint_says_that_it_is_to_be_deleted(damage, tmp_path):
    fit(codec(), 2, tmp_path)
    path = tmp_path / "training.ckpt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{path} cannot be read as a checkpoint: it is damaged. Delete it"):
        fit(codec(), 2, tmp_path)


def test_a_checkpoint_of_another_model_data_or_loss_is_refused(tmp_path):
    fit(codec(), 2, tmp_path, identity="lmbda 0.01")
    with pytest.raises(ValueError, match=r"identity 'lmbda 0.01' there, 'lmbda 0.02' here"):
        fit(codec(), 2, tmp_path, identity="lmbda 0.02")


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """The words of a `codec` command that was stopped before its weights were written."""
    monkeypatch.setattr(run, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(run.datasets, "load", partial(datasets.load, root=tmp_path))
    save, words = run.networks.save, ["codec", "--out", str(tmp_path / "mine.safetensors"), "--device", "cpu"]
    words += ["--train-images", "2", "--size", "64", "--patch", "64", "--steps", "2", "--batch", "1"]

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run.networks, "save", interrupt)
    with pytest.raises(SystemExit, match="the same command continues from the last checkpoint"):
        cli.main(words)
    monkeypatch.setattr(run.networks, "save", save)
    return words


@pytest.mark.parametrize("other", ["--lmbda 0.02", "--loss object-region", "--augment heavy", "--train-images 3"])
def test_another_command_never_goes_on_with_a_stopped_training_of_the_same_name(other, stopped, tmp_path, monkeypatch):
    monkeypatch.setattr(Crops, "__getitem__", None)  # what it would train on
    with pytest.raises(TypeError, match="NoneType"):
        cli.main([*stopped, *other.split()])
    assert not (tmp_path / "mine.safetensors").exists()


def test_the_same_command_goes_on_with_a_stopped_training(stopped, tmp_path, monkeypatch):
    monkeypatch.setattr(Crops, "__getitem__", None)  # nothing is left to train
    cli.main(stopped)
    assert (tmp_path / "mine.safetensors").exists()


SLOW = (
    CHAPTER
    + """
```{code-cell} python
import pathlib, time
pathlib.Path("reached").touch()
while not pathlib.Path("hurry").exists():
    time.sleep(0.1)
```
"""
)


@pytest.fixture
def house(tmp_path):
    """A repository with one chapter, which waits until the file `hurry` is there."""
    files = {"book/slow.md": SLOW, "icm_helpers/losses.py": "", "pyproject.toml": "", "constraints.txt": ""}
    for name, text in {**files, "data/results/run.json": "{}"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def make_book(house: Path) -> None:
    build = test_build.module()
    build.ROOT, sys.argv[1:] = house, ["--only", "slow"]
    build.main()


def test_a_build_killed_inside_a_chapter_caches_nothing_of_it_and_goes_on(house, elsewhere):
    first, second = (elsewhere.Process(target=make_book, args=(house,)) for _ in range(2))
    first.start()
    deadline = time.monotonic() + 120
    while not (house / "reached").exists():
        assert first.is_alive() and time.monotonic() < deadline
        time.sleep(0.1)
    first.kill()
    first.join(60)
    assert first.exitcode == -signal.SIGKILL
    finished = house / "_build" / "executed" / "slow.ipynb"
    assert not finished.exists()
    (house / "hurry").touch()
    second.start()
    second.join(120)
    assert second.exitcode == 0
    assert nbformat.read(finished, 4).metadata["icm_key"]


def test_ctrl_c_in_a_build_says_that_it_goes_on(build, monkeypatch):
    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "execute_stale", interrupt)
    monkeypatch.setattr(sys, "argv", ["build.py"])
    with pytest.raises(SystemExit, match="stopped; the chapters executed so far are kept"):
        build.main()


def test_an_executed_chapter_that_was_cut_off_is_executed_again(build, tmp_path):
    path = tmp_path / "chapter.ipynb"
    build.seal(nbformat.v4.new_notebook(), path, "key")
    assert build.is_fresh(path, "key")
    path.write_bytes(path.read_bytes()[:-20])
    assert not build.is_fresh(path, "key")
