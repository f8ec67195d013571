"""Pages can be read: short enough for an hour's session, and in sentences that a reader takes in at once."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SPEC = importlib.util.spec_from_file_location("measure", ROOT / "book" / "measure.py")
measure = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(measure)
PAGES = sorted((ROOT / "book").rglob("*.md"))
PAPERS = [page for page in PAGES if page.parent.name == "papers" and not page.stem.endswith("_appendix")]


@pytest.mark.parametrize("page", PAPERS, ids=lambda path: path.stem)
def test_a_papers_page_takes_25_minutes_and_has_its_appendix(page):
    row = measure.measure(page)
    assert row["words"] <= 2700 and row["minutes"] < 25.5 and row["tables"] <= 8
    appendix = page.with_name(f"{page.stem}_appendix.md")
    assert appendix.is_file() and f"papers/{appendix.stem}\n" in (ROOT / "book/_toc.yml").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_sentences_are_short(page):
    row = measure.measure(page)
    assert row["mean"] <= 18 and row["longest"] <= 30


def test_a_sentence_ends_at_its_full_stop_and_code_is_no_prose():
    code = "```{code-cell}\nnot = prose\n```\n\n| a | b |"
    text = f"One two three. Four `x.y` five six:\nseven.\n\n{code}\n\n{{term}}`AP <ap>` is read {{cite:p}}`x`."
    assert measure.prose(text) == ["One two three. Four X five six: seven.", "AP is read."]
    assert measure.sentences(text) == [3, 5, 3]
