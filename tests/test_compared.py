"""The page that compares all methods: advice follows from verdicts, and records of one's own are checked and stand beside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_shown import CLAIM

from icm_helpers import chapters
from icm_helpers.chapters.compare import ADVICE
from icm_helpers.intervals import Interval
from icm_helpers.ledger import compared, report, results, verdicts
from icm_helpers.ledger.recipe import Accuracy

IDS = list(range(4))


def finding(low: float, high: float) -> verdicts.Finding:
    return verdicts.Finding(CLAIM, "scenes", "box_ap", "m", Interval((low + high) / 2, low, high), "% rate")


@pytest.mark.parametrize(("ends", "leaning"), [((-20, -10), "for"), ((10, 20), "against"), ((-20, 20), "open")])
def test_advice_is_the_text_of_its_verdict(ends, leaning):
    for line in ADVICE:
        assert line.texts[leaning] in compared.told(line, [finding(*ends)])
    assert "Not measured yet" in compared.told(ADVICE[0], [])


def test_every_line_of_advice_rests_on_a_claim_and_has_all_four_texts():
    known = {claim.id for name in chapters.NAMES for claim in chapters.named(name).claims}
    assert len(ADVICE) == 10 and {line.claim for line in ADVICE} <= known
    assert all(set(line.texts) == {"for", "against", "both", "open"} for line in ADVICE)


def record(size: int, ap: float, ids: list[int] = IDS) -> dict:
    """One rate of a made-up codec on four pictures of 100 pixels."""
    spent = {"id": ids, "bytes": [size] * len(ids), "pixels": [100] * len(ids)}
    drawn = np.linspace(ap - 0.01, ap + 0.01, 200).tolist()
    result = {"bpp": 8 * size / 100, "psnr": 30.0, "per_image": spent, "box_ap": {"m": ap}}
    bootstrap = {"bpp": [8 * size / 100] * 200, "psnr": [30.0] * 200, "box_ap": {"m": drawn}}
    return {"asked": {"ids": ids}, "result": result, "bootstrap": bootstrap}


def written(path: Path, *records: dict) -> Path:
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def test_a_codec_of_ones_own_stands_beside_the_books(tmp_path):
    part = _part()
    chapter = report.Chapter(chapters.named("compare"), [part])
    ids = part.records[0].result["per_image"]["id"]
    mine = written(tmp_path / "mine.json", *(record(s, a, ids) for s, a in ((1, 0.2), (2, 0.3), (4, 0.4))))
    whole = compared.with_own(chapter, [mine])
    _, pictures = compared.seen(whole, ("jpeg",), count=1, shown=0)
    assert [name.partition(",")[0] for name in pictures] == ["original", "MSE"]
    beside = whole.parts[0]
    assert "mine" in compared.methods(beside) and report.label("mine") == "mine"
    assert len(beside.curves("box_ap", "m")["mine"].bpp) == 3
    listed = compared.points(beside)
    assert (
        "mine" in listed.index
        and not listed.set_index(["λ, quality or QP", "seed"], append=True).index.duplicated().any()
    )
    other = written(tmp_path / "other.json", record(1, 0.2))
    with pytest.raises(ValueError, match=r"other\.json was measured on 4 other pictures than those of this page"):
        compared.with_own(chapter, [other])
    with pytest.raises(ValueError, match="a method is called 'mse' already"):
        compared.with_own(chapter, [written(tmp_path / "mse.json", record(1, 0.2, ids))])


def _part() -> report.Part:
    """The chapter's scenes with those of its records that are of MSE."""
    study = chapters.named("compare").studies()[0]
    recipes = [r for r in study.recipes() if r.method == "mse" and isinstance(r.measured, Accuracy)]
    return report.Part(study, [results.read(r) for r in recipes])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r["result"].update(bpp=0.01), "its bytes make 0.08"),
        (lambda r: r["bootstrap"]["box_ap"].update(m=[float("nan")] * 200), "box_ap has values that are not finite"),
        (lambda r: r["result"]["per_image"].update(id=[9]), "same pictures"),
        (lambda r: r.pop("bootstrap"), "KeyError: 'bootstrap'"),
        (lambda r: r.update(bootstrap=[]), "AttributeError"),
        (lambda r: r["result"]["per_image"].update(pixels=[0] * 4), "ZeroDivisionError"),
        (lambda r: r["result"]["box_ap"].update(m=float("nan")), "box_ap has values that are not finite"),
    ],
)
def test_a_record_that_is_damaged_or_forged_is_refused(tmp_path, change, says):
    bad = record(1, 0.2)
    change(bad)
    with pytest.raises(ValueError, match=f"is not a record of a codec .*{says}"):
        compared.read(written(tmp_path / "bad.json", bad))


def test_every_record_that_was_sent_in_is_whole_and_of_the_books_pictures():
    pictures = [part.records[0].result["per_image"]["id"] for part in report.open("compare").main]
    for path in compared.sent_in():
        assert compared.read(path).ids in pictures
