"""The ledger: a record is named by its recipe, whole or absent, and never replaced."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import pytest

from icm_helpers.ledger import results
from icm_helpers.ledger.results import LedgerError, Recipe

COMMITTED = sorted(path for path in (results.ROOT / "data" / "results").rglob("*.json") if path.parent.name != "codecs")
RECIPE = Recipe("chapter", "scenes", 4, 64, "codec", "trained", ("judge@01234567",), loss="mse", lmbda=0.01, steps=3)
RESULT = {"bpp": 0.123456789, "box_ap": {"judge": 0.5}}
BOOTSTRAP = {"bpp": [0.1, 0.2, 0.3], "box_ap": {"judge": [0.4, 0.5, 0.6]}}


@pytest.fixture(autouse=True)
def ledger(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "LEDGER", tmp_path)
    return tmp_path


def write(recipe: Recipe = RECIPE) -> results.Record:
    return results.write(recipe, RESULT, BOOTSTRAP, device="cpu", seconds=1.0)


def changed(recipe: Recipe, name: str) -> Recipe:
    value = getattr(recipe, name)
    return replace(recipe, **{name: ("other@89abcdef",) if isinstance(value, tuple) else value * 2 or type(value)(1)})


def test_every_field_of_a_recipe_changes_its_name_and_their_order_does_not():
    names = [f.name for f in fields(Recipe)]
    assert len({RECIPE.run_id, *(changed(RECIPE, name).run_id for name in names)}) == len(names) + 1
    assert Recipe(**{name: getattr(RECIPE, name) for name in reversed(names)}).run_id == RECIPE.run_id


def test_a_codec_keeps_its_name_under_other_judges_only():
    kept = {f.name for f in fields(Recipe) if changed(RECIPE, f.name).codec_id == RECIPE.codec_id}
    assert kept == {"chapter", "method", "detectors", "images", "finetuned", "finetune_steps"}


def test_reading_gives_what_was_written():
    assert write() == results.read(RECIPE)
    assert results.read(RECIPE)["result"] == {"bpp": 0.123457, "box_ap": {"judge": 0.5}}
    assert results.read(RECIPE)["bootstrap"] == BOOTSTRAP


def test_a_number_that_is_not_finite_is_refused_by_its_name():
    broken = {"box_ap": {"judge": [0.4, float("nan")]}}
    with pytest.raises(LedgerError, match=r"has bootstrap.box_ap.judge that are not finite"):
        results.write(RECIPE, RESULT, broken, device="cpu", seconds=1.0)
    assert not RECIPE.path.exists()


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
    with pytest.raises(LedgerError, match=f"no record.*icm_helpers grid chapter --only {RECIPE.run_id}.*rerun=True"):
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
    other, measured = replace(RECIPE, seed=1), []
    write()

    def run(recipe: Recipe) -> results.Record:
        measured.append(recipe)
        return write(recipe)

    with pytest.raises(LedgerError, match="no record"):
        results.load_or_run([RECIPE, other], run)
    records = results.load_or_run([RECIPE, other], run, rerun=True)
    assert measured == [other]
    assert [record["recipe"]["seed"] for record in records] == [0, 1]


@pytest.mark.skipif(not COMMITTED, reason="no record is committed yet")
def test_every_committed_record_belongs_to_its_name(monkeypatch):
    monkeypatch.setattr(results, "LEDGER", results.ROOT / "data" / "results")
    for path in COMMITTED:
        content = json.loads(path.read_text(encoding="utf-8"))["recipe"]
        recipe = Recipe(**content | {"detectors": tuple(content["detectors"])})
        assert recipe.path == path
        results.read(recipe)
