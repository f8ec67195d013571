import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from icm_helpers import notebooks

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
