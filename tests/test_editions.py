"""The course's notebooks: students get no solution, every check is left, and nothing of the book's markup."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from icm_helpers import editions, notebooks

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = notebooks.chapters(ROOT / "book")
every_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)


def asked(nb):
    return [cell.source for cell in nb.cells if "exercise" in cell.metadata.get("tags", [])]


@every_chapter
def test_a_student_gets_a_stub_for_every_exercise_and_no_solution(chapter):
    nb = editions.student(notebooks.read(chapter))
    text = "\n".join(cell.source for cell in nb.cells)
    assert len(asked(nb)) == chapter.read_text().count("{exercise-start}")
    assert "solution-" not in text and "exercise-start" not in text
    for source in asked(nb):
        functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
        assert functions and all(ast.unparse(f.body) == "..." for f in functions)
        assert "# YOUR CODE" in source and "check_" in source


@every_chapter
def test_an_instructor_gets_every_cell_of_code_and_the_solutions_as_headings(chapter):
    whole = notebooks.read(chapter)
    nb = editions.instructor(whole)
    code = [[cell.source for cell in some.cells if cell.cell_type == "code"] for some in (whole, nb)]
    assert code[0] == code[1]
    headings = sum(cell.source.startswith("#### Solution") for cell in nb.cells)
    assert headings == chapter.read_text().count("{solution-start}")


def test_a_stub_keeps_what_its_check_needs_and_drops_what_only_the_solution_needs():
    code = "def helper(x):\n    return x\n\n\ndef yours(x):\n    return helper(x)\n\n\nn = 3\nm = 4\ncheck_it(yours, n)\nprint(m)"
    assert editions.stub(code) == "def yours(x):\n    # YOUR CODE\n    ...\n\n\nn = 3\ncheck_it(yours, n)"
    assert editions.stub("print(3)") == ""


def test_the_editions_come_in_one_zip_and_install_the_package_where_it_is_missing(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "book/a.md").write_text((ROOT / "book/papers/sa_nerv.md").read_text())
    (tmp_path / "_config.yml").write_text("repository: {url: 'https://example.org/book'}\n")
    assert editions.write("student", tmp_path / "out", tmp_path).read_bytes()[:2] == b"PK"
    first = nbformat.read(tmp_path / "out/a.ipynb", 4).cells[1].source
    assert "%pip install" in first and "git+https://example.org/book" in first
    (tmp_path / "_config.yml").write_text("repository: {url: ''}\n")
    editions.write("instructor", tmp_path / "out", tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("of a year")
    with pytest.raises(FileExistsError, match=r"holds notes\.txt, which belongs to no edition"):
        editions.write("student", tmp_path / "mine", tmp_path)
    assert "%pip" not in (tmp_path / "out/a.ipynb").read_text()


def test_a_talk_has_a_slide_for_each_section_and_nothing_of_the_pages_markup(tmp_path):
    nb = editions.slides(notebooks.read(ROOT / "book/papers/sa_nerv.md"))
    text = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    assert (
        "## The method from scratch" in text and "Exercise" not in text and "{doc}" not in text and "{glue" not in text
    )
    assert {cell.metadata.slideshow.slide_type for cell in nb.cells} >= {"slide", "subslide"}
    with pytest.raises(FileNotFoundError, match="run `make book` first"):
        editions.write_slides(tmp_path / "slides", tmp_path)


def test_a_talk_opens_without_a_network(tmp_path):
    page, executed = tmp_path / "book/papers/a.md", tmp_path / "_build/executed/papers/a.ipynb"
    page.parent.mkdir(parents=True)
    executed.parent.mkdir(parents=True)
    page.write_text((ROOT / "book/papers/sa_nerv.md").read_text())
    nbformat.write(notebooks.read(page), executed)
    (talk,) = editions.write_slides(tmp_path / "slides", tmp_path)
    loaded = re.findall(r'<(?:script|link)[^>]*(?:src|href)="([^"]*)', talk.read_text())
    assert len(loaded) >= 4 and all((talk.parent / path).is_file() for path in loaded)
