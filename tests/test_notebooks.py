import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class

from icm_helpers import notebooks

BOOK = Path(__file__).resolve().parent.parent / "book"
CHAPTER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A chapter

```{code-cell} python
:tags: [parameters]

preset: str = "book"  # smoke | book | paper
seed: int = 0  # seed of the demonstration
```

```{code-cell} python
print(preset, seed + 1)
```
"""


@pytest.fixture
def chapter(tmp_path: Path) -> Path:
    path = tmp_path / "chapter.md"
    path.write_text(CHAPTER)
    return path


def test_parameters_carry_type_default_and_comment(chapter):
    seed = notebooks.parameters(notebooks.read(chapter))["seed"]
    assert (seed.inferred_type_name, seed.default, seed.help) == ("int", "0", "seed of the demonstration")


def test_the_command_line_executes_a_chapter_with_typed_parameters(chapter, tmp_path):
    output = tmp_path / "out.ipynb"
    notebooks.main([str(chapter), str(output), "-p", "preset", "smoke", "-p", "seed", "6"])
    assert nbformat.read(output, 4).cells[-1].outputs[0].text == "smoke 7\n"
    assert not list(tmp_path.glob("*.partial.ipynb"))


def test_an_unknown_parameter_is_an_error_that_lists_the_known_ones(chapter, tmp_path):
    with pytest.raises(ValueError, match=r"unknown parameter sede: the chapter's are preset, seed"):
        notebooks.execute(chapter, tmp_path / "out.ipynb", {"sede": 1})


@pytest.mark.parametrize("given", [{"seed": "1"}, {"seed": True}, {"seed": 1.0}, {"preset": 1}])
def test_a_parameter_of_the_wrong_type_is_an_error(chapter, tmp_path, given):
    with pytest.raises(TypeError, match=f"parameter {next(iter(given))} takes"):
        notebooks.execute(chapter, tmp_path / "out.ipynb", given)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("list[float]", [1, 2.5], ["a"]),
        ("list", ["a"], "a"),
        ("dict[str, int]", {"a": 1}, {"a": "b"}),
        ("int | None", None, "1"),
        ('Literal["low", "high"]', "low", "middle"),
    ],
)
def test_every_type_that_a_cell_declares_is_checked(chapter, kind, good, bad):
    chapter.write_text(CHAPTER.replace("seed: int = 0", f"seed: {kind} = 0"))
    nb = notebooks.read(chapter)
    notebooks.check(nb, {"seed": good})
    with pytest.raises(TypeError, match="parameter seed takes"):
        notebooks.check(nb, {"seed": bad})


def test_a_default_may_hold_any_text_and_values_land_in_the_cell_that_declares_them(chapter, tmp_path):
    chapter.write_text(CHAPTER.replace('"book"  #', '"a=b # c"  #').replace("seed: int = 0", "seed: dict = {\n 1: 2}"))
    known = notebooks.parameters(notebooks.read(chapter))
    assert (known["preset"].default, known["preset"].help) == ('"a=b # c"', "smoke | book | paper")
    chapter.write_text(chapter.read_text().replace("seed + 1", "seed"))
    nb = notebooks.execute(chapter, tmp_path / "out.ipynb", {"preset": "ü=1", "seed": {3: 4}}, progress=False)
    assert (
        nb.cells[1].source
        == "preset: str = 'ü=1'  # smoke | book | paper\nseed: dict = {3: 4}  # seed of the demonstration"
    )
    assert nb.cells[-1].outputs[0].text == "ü=1 {3: 4}\n"


def test_a_notebook_runs_again_and_obeys_its_own_parameters_cell(chapter, tmp_path):
    first, again = tmp_path / "first.ipynb", tmp_path / "again.ipynb"
    notebooks.execute(chapter, first, {"seed": 4}, progress=False)
    nb = nbformat.read(first, 4)
    nb.cells[1].source = nb.cells[1].source.replace("seed: int = 4", "seed: int = 6")
    nbformat.write(nb, first)
    assert notebooks.execute(first, again, {"preset": "smoke"}, progress=False).cells[-1].outputs[0].text == "smoke 7\n"


def test_a_byte_order_mark_is_read_over(chapter):
    chapter.write_text(CHAPTER, encoding="utf-8-sig")
    assert list(notebooks.parameters(notebooks.read(chapter))) == ["preset", "seed"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CHAPTER.replace("kernelspec:", "kernelspec: ["), r"chapter\.md, line \d+: the front matter.* is not YAML"),
        (CHAPTER.replace(":tags: [parameters]", ":tags: [parameters"), r"chapter\.md cannot be read as a notebook"),
        (CHAPTER.replace("seed: int = 0", "seed: int ="), r"the parameters cell is not Python"),
    ],
)
def test_a_chapter_that_cannot_be_read_is_one_clear_line(text, message, chapter):
    chapter.write_text(text)
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        notebooks.main([str(chapter), "--help-notebook"])


def test_an_output_that_cannot_be_written_is_refused_before_anything_runs(chapter, tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks.papermill, "execute_notebook", None)
    (tmp_path / "folder.ipynb").mkdir()
    for output in (tmp_path / "folder.ipynb", chapter / "below.ipynb"):
        with pytest.raises(SystemExit, match=f"error: cannot write {output}"):
            notebooks.main([str(chapter), str(output)])


def test_the_kernel_is_that_of_the_running_python(chapter, tmp_path, monkeypatch):
    spec = tmp_path / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(
        json.dumps({"argv": ["/another/python", "{connection_file}"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    chapter.write_text(CHAPTER.replace("print(preset, seed + 1)", "import sys; print(sys.executable)"))
    nb = notebooks.execute(chapter, tmp_path / "out.ipynb", progress=False)
    assert nb.cells[-1].outputs[0].text == f"{sys.executable}\n"


@pytest.mark.parametrize("chapter", notebooks.chapters(BOOK), ids=lambda path: path.stem)
def test_saving_a_chapter_in_jupyterlab_keeps_everything(chapter, tmp_path):
    """Captions and alternative texts are metadata of cells, which a filter of jupytext's would drop."""
    for path in (chapter, BOOK / "jupytext.toml"):
        shutil.copy(path, tmp_path)
    manager = build_sync_jupytext_contents_manager_class(LargeFileManager)(root_dir=str(tmp_path))
    before = notebooks.read(chapter).cells
    content = manager.get(chapter.name, type="notebook")["content"]
    manager.save({"type": "notebook", "format": "json", "content": content}, chapter.name)
    after = notebooks.read(tmp_path / chapter.name).cells
    assert (tmp_path / chapter.name).stat().st_mtime > chapter.stat().st_mtime
    assert [(c.source, c.metadata) for c in before] == [(c.source, c.metadata) for c in after]
    assert any("mystnb" in cell.metadata for cell in after) == ("mystnb:" in chapter.read_text())


def test_a_failing_cell_is_named_and_leaves_no_finished_notebook(chapter, tmp_path):
    chapter.write_text(CHAPTER.replace("seed + 1", "1 / seed"))
    where = r"chapter\.md: cell 2 failed\n    \| print\(preset, 1 / seed\)"
    with pytest.raises(notebooks.ChapterError, match=where) as info:
        notebooks.execute(chapter, tmp_path / "out.ipynb")
    assert "ZeroDivisionError" in str(info.value)
    assert info.value.partial.is_file() and not (tmp_path / "out.ipynb").exists()


def test_a_page_without_a_kernel_is_no_chapter(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Only text\n\n---\nkernelspec: in the text\n---\n")
    assert notebooks.chapters(tmp_path) == []
    with pytest.raises(ValueError, match="no kernelspec"):
        notebooks.read(page)


def test_the_module_runs_as_a_program(chapter):
    command = [sys.executable, "-m", "icm_helpers.notebooks", str(chapter), "--help-notebook"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "seed: int = 0" in listed and "seed of the demonstration" in listed
    assert json.dumps("book") in listed
