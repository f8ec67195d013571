"""Every chapter runs in preset smoke, refuses a parameter that it does not have, and keeps the house's style."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from icm_helpers import editions, notebooks

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = notebooks.chapters(ROOT / "book")
MOST = 3230  # lines of code in all chapters, empty ones not counted
SECONDS = 120  # of computing: at most 60 s on two cores, however busy the machine is with other work

every_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)


SPENT = """import resource
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(sum(u.ru_utime + u.ru_stime for u in used))"""


@every_chapter
def test_a_chapter_runs_in_preset_smoke_where_solutions_pass_their_checks_and_stubs_fail_them(chapter, tmp_path):
    nb, examined = editions.examined(notebooks.read(chapter)), tmp_path / "examined.ipynb"
    nb.cells.append(nbformat.v4.new_code_cell(SPENT))
    nbformat.write(nb, examined)
    done = notebooks.execute(examined, tmp_path / "smoke.ipynb", {"preset": "smoke"}, cwd=ROOT, forked=True)
    assert float(done.cells[-1].outputs[0].text) < SECONDS
    captioned = [cell for cell in done.cells if "figure" in cell.metadata.get("mystnb", {})]
    shown = [cell for cell in captioned if any("image/png" in o.get("data", {}) for o in cell.outputs)]
    assert shown or not captioned  # some have nothing to show in preset smoke


@every_chapter
def test_a_chapter_refuses_an_unknown_parameter(chapter, tmp_path):
    with pytest.raises(ValueError, match="unknown parameter lambda_"):
        notebooks.execute(chapter, tmp_path / "out.ipynb", {"lambda_": 0.02})


@every_chapter
def test_a_chapter_documents_every_parameter(chapter):
    known = notebooks.parameters(notebooks.read(chapter))
    assert known["preset"].default == '"book"'
    undocumented = [p.name for p in known.values() if p.inferred_type_name == "None" or not p.help]
    assert not undocumented, f"give these a type and a comment: {undocumented}"


def code(chapter: Path) -> list[tuple[list[str], bool]]:
    """The code cells of a chapter: lines that are not empty, and whether readers of the web page see them folded."""
    cells = [cell for cell in notebooks.read(chapter).cells if cell.cell_type == "code"]
    folded = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
    return [
        ([line for line in c.source.splitlines() if line.strip()], bool(folded & {*c.metadata.get("tags", [])}))
        for c in cells
    ]


MEASURED = re.compile(
    r"[-+\u2212]?\d[\d.,]*\s?(?:%|percent\b|dB\b|points?\b|of AP\b)|[\d.]+ ?%? \[[-+\u2212]?[\d.]|"
    r"\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty)\s(?:percent|points)\b"
)
TYPED = (
    "{cite",
    "95 %",
    "{glue",
)  # a number of a paper, the level of all intervals, and one that comes from the ledger


def typed_results(text: str) -> list[str]:
    """Sentences of a chapter's text with a number that somebody may have measured, and that nothing keeps up to date."""
    prose = re.sub(
        r"```.*?```|`[^`]*`|\|.*\||\$[^$]*\$", " ", re.sub(r"(?s)```\{exercise-start.*?exercise-end\}\n```", "", text)
    )
    sentences = re.split(r"(?<=[.:?!])\s+", prose.replace("\n", " "))
    return [s for s in sentences if MEASURED.search(s) and not any(word in s for word in TYPED)]


@pytest.mark.parametrize("chapter", [c for c in CHAPTERS if c.parent.name == "papers"], ids=lambda path: path.stem)
def test_no_result_is_typed_into_the_text_of_a_paper(chapter):
    cells = [cell.source for cell in notebooks.read(chapter).cells if cell.cell_type == "markdown"]
    assert [s for text in cells for s in typed_results(text)] == []


def test_a_typed_result_is_found_and_a_papers_own_number_is_not():
    found = typed_results(
        "It saves 14 percent. By +3 % [1, 6]. Up to 1.5 points {cite:p}`a`. The 95 % interval. `x = 5 %`."
    )
    assert found == ["It saves 14 percent.", "By +3 % [1, 6]."]


@pytest.mark.parametrize(
    "chapter", [c for c in CHAPTERS if c.parent.name != "reference" and c.stem != "intro"], ids=str
)
def test_the_minutes_that_a_chapter_states_are_those_of_its_length(chapter):
    """At 200 words a minute, 20 lines of code, and half a minute for a figure: what a lecturer took for the first edition."""
    cells = notebooks.read(chapter).cells
    prose = " ".join(cell.source for cell in cells if cell.cell_type == "markdown")
    shown = sum(len(lines) for lines, hidden in code(chapter) if not hidden)
    figures = sum("figure" in cell.metadata.get("mystnb", {}) for cell in cells)
    minutes = len(re.sub(r"```+\{?.*|:\w+: .*", " ", prose).split()) / 200 + shown / 20 + figures / 2
    assert abs(minutes - int(re.search(r"\*(\d+) minutes to read\.\*", prose)[1])) <= 5


@every_chapter
def test_exercises_say_how_hard_and_long_they_are_and_the_easier_come_first(chapter):
    text = chapter.read_text()
    levels = [int(level) for level in re.findall(r"\*Level ([123]), \d+ minutes\.\*", text)]
    assert len(levels) == text.count("{exercise-start}") and levels == sorted(levels)


@every_chapter
def test_readers_of_the_web_page_do_not_see_parameters(chapter):
    cell = next(c for c in notebooks.read(chapter).cells if "parameters" in c.metadata.get("tags", []))
    assert "remove-input" in cell.metadata.tags


@every_chapter
def test_no_cell_that_is_shown_is_longer_than_a_screen(chapter):
    assert not [lines for lines, hidden in code(chapter) if not hidden and len(lines) > 20]


def test_chapters_are_thin_and_hide_little():
    """What two chapters do stands in the package, and what builds a table is shown as the call that it is."""
    cells = [cell for chapter in CHAPTERS for cell in code(chapter)]
    lines, hidden = sum(len(lines) for lines, _ in cells), sum(len(lines) for lines, hidden in cells if hidden)
    assert lines <= MOST and hidden <= 0.25 * lines


@every_chapter
@pytest.mark.parametrize("command", [["check"], ["format", "--diff"]], ids=["check", "format"])
def test_a_chapter_keeps_the_style_of_the_package(chapter, command):
    # ruff knows the manners of notebooks: a last line that shows a value, an import where it is needed. 88 columns fit a page.
    text = nbformat.writes(notebooks.read(chapter))
    flags = ["--line-length=88", "--stdin-filename", chapter.with_suffix(".ipynb"), "-"]
    ruff = [sys.executable, "-m", "ruff", *command, *flags]
    found = subprocess.run(ruff, input=text, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
