"""The ledger: a record is named by its recipe, whole or absent, and never replaced."""

import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest

from icm_helpers.ledger import recipe as recipes
from icm_helpers.ledger import results
from icm_helpers.ledger.recipe import Accuracy, Classical, Pictures, Recipe, Trained, Training
from icm_helpers.ledger.results import LedgerError
from icm_helpers.objectives import MSE

TRAINED = Trained("codec", MSE(), 0.01, Training("none", 3, 2, 64, 1e-4, "none", "32-true", 4))
RECIPE = Recipe("chapter", Pictures("scenes", 4, 64), TRAINED, Accuracy(("judge@01234567",)))
RESULT = {"bpp": 0.123456789, "box_ap": {"judge": 0.5}}
BOOTSTRAP = {"bpp": [0.1, 0.2, 0.3], "box_ap": {"judge": [0.4, 0.5, 0.6]}}


@pytest.fixture(autouse=True)
def ledger(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "LEDGER", tmp_path)
    return tmp_path


def write(recipe: Recipe = RECIPE) -> results.Record:
    return results.write(recipe, RESULT, BOOTSTRAP, device="cpu", seconds=1.0)


def test_reading_gives_what_was_written():
    assert write() == results.read(RECIPE)
    assert results.read(RECIPE).result == {"bpp": 0.123457, "box_ap": {"judge": 0.5}}
    assert results.read(RECIPE).bootstrap == BOOTSTRAP


def test_a_number_that_is_not_finite_is_refused_by_its_name():
    broken = {"box_ap": {"judge": [0.4, float("nan")]}}
    with pytest.raises(LedgerError, match=r"has bootstrap.box_ap.judge that are not finite"):
        results.write(RECIPE, RESULT, broken, device="cpu", seconds=1.0)
    assert not RECIPE.path.exists()


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        ([1, 2, 3], "scenes has 3 pictures here, the recipe asks for 4"),
        ([1, 2, 3, 9], "scenes has other pictures here than"),
    ],
)
def test_a_record_of_other_pictures_than_its_recipes_is_refused(ids, told):
    seen = RESULT | {"per_image": {"id": [1, 2, 3, 4]}}
    results.write(RECIPE, seen, BOOTSTRAP, device="cpu", seconds=1.0)
    other = replace(RECIPE, codec=replace(TRAINED, seed=1))
    with pytest.raises(LedgerError, match=told):
        results.write(other, seen | {"per_image": {"id": ids}}, BOOTSTRAP, device="cpu", seconds=1.0)
    assert not other.path.exists()


def test_pictures_of_ones_own_in_the_place_of_coco_are_refused_before_any_training(monkeypatch):
    from icm_helpers import run

    monkeypatch.setattr(run.datasets, "load", lambda *_, **__: SimpleNamespace(ids=range(12)))
    monkeypatch.setattr(run, "trained_codec", None)
    recipe = Recipe("c", Pictures("coco2017", 5000), Classical("jpeg", quality=10), Accuracy(()))
    with pytest.raises(LedgerError, match="coco2017 has 12 pictures here, the recipe asks for 5000: correct ICM_COCO"):
        run.measure(recipe)


def test_what_is_wrong_with_another_record_costs_no_measurement():
    seen = RESULT | {"per_image": {"id": [1, 2, 3, 4]}}
    RECIPE.path.parent.mkdir(parents=True)
    (RECIPE.path.parent / "a.json").write_text("<<<<<<< ours")
    assert results.write(RECIPE, seen, BOOTSTRAP, device="cpu", seconds=1.0).result["per_image"]["id"] == [1, 2, 3, 4]


def test_a_copy_without_git_inside_another_repository_has_no_commit(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / "copy").mkdir()
    monkeypatch.setattr(results.files, "ROOT", tmp_path / "copy")
    assert results.provenance("cpu")["commit"] == "unknown"


def test_a_record_has_a_line_for_each_list():
    write()
    lines = [line.strip() for line in RECIPE.path.read_text().splitlines()]
    assert '"bpp": [0.1, 0.2, 0.3],' in lines and '"detectors": ["judge@01234567"],' in lines


def test_an_existing_record_is_never_overwritten(ledger):
    write()
    before = RECIPE.path.read_bytes()
    with pytest.raises(LedgerError, match="exists already: delete it first"):
        results.write(RECIPE, {"bpp": 9.0}, {}, device="cpu", seconds=2.0)
    assert RECIPE.path.read_bytes() == before


def test_of_many_writers_one_succeeds_and_one_whole_file_is_left(ledger):
    start = threading.Barrier(8)

    def attempt(_: int) -> bool:
        start.wait()
        try:
            write()
        except LedgerError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1
    assert list(RECIPE.path.parent.iterdir()) == [RECIPE.path]
    results.read(RECIPE)


def test_a_missing_record_names_the_command_that_measures_it():
    with pytest.raises(LedgerError, match=f"no record.*icm grid chapter --only {RECIPE.run_id}.*rerun=True"):
        results.read(RECIPE)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "not readable JSON"),
        (lambda text: "", "not readable JSON"),
        (lambda text: "3", "lacks bootstrap, checksum, provenance, recipe, result"),
        (lambda text: text.replace('"bootstrap"', '"strapboot"'), "lacks bootstrap"),
        (lambda text: text.replace('"steps": 3', '"steps": 4'), "another recipe than its name says: steps differ"),
        (lambda text: text.replace("0.123457", "0.223457"), "checksum differs"),
    ],
)
def test_a_damaged_record_is_an_error_that_says_what_to_do(damage, message):
    write()
    RECIPE.path.write_text(damage(RECIPE.path.read_text()))
    with pytest.raises(LedgerError, match=rf"{message}.*restore it with git, or delete it"):
        results.read(RECIPE)


def test_a_full_disk_leaves_nothing(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write()
    assert list(RECIPE.path.parent.iterdir()) == []


def test_rerun_measures_only_what_is_missing():
    other, measured = replace(RECIPE, codec=replace(TRAINED, seed=1)), []
    write()

    def run(recipe: Recipe) -> results.Record:
        measured.append(recipe)
        return write(recipe)

    with pytest.raises(LedgerError, match="no record"):
        results.load_or_run([RECIPE, other], run)
    records = results.load_or_run([RECIPE, other], run, rerun=True)
    assert measured == [other]
    assert [record.recipe.seed for record in records] == [0, 1]
