"""What counts as changed: a stale output must never reach a reader, a fresh one must not cost a second."""

import importlib.util
import shutil
from pathlib import Path

import nbformat
import papermill
import pytest
from test_notebooks import CHAPTER

from icm_helpers import notebooks

ROOT = Path(__file__).resolve().parent.parent


def module():
    """book/build.py."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "book" / "build.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="session")
def build():
    return module()


@pytest.fixture
def house(tmp_path: Path, build, monkeypatch) -> Path:
    """A small repository with two chapters, whose execution is replaced by reading them."""
    for name, text in {
        "book/a.md": CHAPTER,
        "book/papers/b.md": CHAPTER,
        "book/intro.md": "# Only text\n",
        "icm_helpers/losses.py": "x = 1\n",
        "data/results/a/run.json": "{}\n",
        "data/cache/photo": "downloaded\n",
        "pyproject.toml": "\n",
        "constraints.txt": "torch==2.13.0\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def execute(path, output, given, cwd, progress, forked):
        output.parent.mkdir(parents=True, exist_ok=True)
        if "1 / 0" in path.read_text():
            nbformat.write(notebooks.read(path), output.with_suffix(".partial.ipynb"))
            raise notebooks.ChapterError("cell 2 failed", output.with_suffix(".partial.ipynb"))
        return notebooks.read(path)

    monkeypatch.setattr(notebooks, "execute", execute)
    assert len(build.execute_stale(tmp_path, "book")) == 2
    return tmp_path


def test_nothing_runs_again_when_nothing_changed(build, house):
    (house / "data/cache/photo").write_text("another download\n")
    (house / "data/weights").mkdir()
    (house / "data/weights/fetched.pt").write_text("other weights\n")
    (house / "book/intro.md").write_text("# Other text\n")
    assert build.execute_stale(house, "book") == []


def test_only_the_chapter_whose_code_changed_runs_again(build, house):
    (house / "book/a.md").write_text(CHAPTER.replace("seed + 1", "seed + 2"))
    assert build.execute_stale(house, "book") == [house / "book/a.md"]


def test_new_prose_is_rendered_with_the_outputs_that_are_there(build, house):
    (house / "book/a.md").write_text(CHAPTER + "\nMore.\n")
    assert build.execute_stale(house, "book") == []
    page = nbformat.read(build.assemble(house) / "a.ipynb", 4)
    assert "More." in page.cells[-1].source and [c.source for c in page.cells if c.cell_type == "code"]


def test_a_page_can_be_downloaded_and_says_how_to_run_it_where_the_page_does_not_show(build, house, tmp_path):
    page = build.assemble(house) / "a.ipynb"
    first = nbformat.read(page, 4).cells[0]
    assert "make env" in first.source and first.metadata.tags == ["remove-cell"]
    assert list(notebooks.parameters(notebooks.read(page))) == ["preset", "seed"]


def test_plain_papermill_runs_the_notebooks_that_make_writes(build, house, tmp_path):
    folder = build.write_notebooks(house)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.ipynb")} == {"a.ipynb", "papers/b.ipynb"}
    nb = papermill.execute_notebook(folder / "a.ipynb", tmp_path / "out.ipynb", {"seed": 4}, progress_bar=False)
    assert nb.cells[-1].outputs[0].text == "book 5\n"


@pytest.mark.parametrize("name", ["icm_helpers/losses.py", "data/results/a/run.json", "constraints.txt"])
def test_every_chapter_runs_again_when_what_they_share_changed(build, house, name):
    with (house / name).open("a") as file:
        file.write("\n")
    assert len(build.execute_stale(house, "book")) == 2


def test_a_record_that_is_gone_makes_chapters_stale(build, house):
    shutil.rmtree(house / "data/results/a")
    assert len(build.execute_stale(house, "book")) == 2


def test_what_sphinx_reads_is_the_same_where_nothing_changed(build, house):
    first, again = ((build.assemble(house) / "a.ipynb").read_bytes() for _ in range(2))
    assert first == again


def test_another_preset_runs_everything_again(build, house):
    assert len(build.execute_stale(house, "smoke")) == 2


def test_a_build_that_failed_goes_on_where_it_stopped(build, house):
    (house / "icm_helpers/losses.py").write_text("x = 2\n")
    (house / "book/papers/b.md").write_text(CHAPTER.replace("seed + 1", "1 / 0"))
    with pytest.raises(notebooks.ChapterError):
        build.execute_stale(house, "book")
    assert (house / "_build/failed/papers/b.ipynb").is_file()
    (house / "book/papers/b.md").write_text(CHAPTER)
    assert build.execute_stale(house, "book") == [house / "book/papers/b.md"]
    assert not (house / "_build/failed/papers/b.ipynb").exists()


def test_sphinx_reads_executed_chapters_and_nothing_that_is_gone(build, house):
    source = build.assemble(house)
    names = {path.relative_to(source).as_posix() for path in build.tree(source)}
    assert names == {"a.ipynb", "intro.md", "papers/b.ipynb"}
    (house / "book/papers/b.md").unlink()
    assert not (build.assemble(house) / "papers").exists()


def test_executed_chapters_say_nothing_of_the_machine(build, house):
    text = (house / "_build/executed/a.ipynb").read_text()
    assert '"papermill"' not in text and str(house) not in text


def test_a_title_that_is_printed_stays_above_its_table(build):
    def printed(text):
        return nbformat.v4.new_output("stream", name="stdout", text=text)

    table = nbformat.v4.new_output("display_data", {"text/plain": "table"})
    outputs = build.joined([printed("first "), printed("title\n"), table, printed("1 of 2\r2 of 2\n"), table])
    assert [o.get("text", "table") for o in outputs] == ["first title\n", "table", "table"]


def test_only_takes_the_name_of_a_chapter(build, house):
    with pytest.raises(ValueError, match=r"--only c: no such chapter; there are a, papers/b"):
        build.execute_stale(house, "book", only="c")


def test_pages_have_buttons_to_launch_them_only_where_the_repository_has_an_address(build, tmp_path):
    config = tmp_path / "_config.yml"
    config.write_text("repository: {url: ''}\n")
    (tmp_path / "_build").mkdir()
    assert build.with_buttons(config, tmp_path / "_build") == config
    config.write_text("repository: {url: 'https://example.org/book'}\n")
    assert "colab_url" in build.with_buttons(config, tmp_path / "_build").read_text()
