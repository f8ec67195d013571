"""Chapters as text notebooks: read them with jupytext, execute them with papermill, where a wrong parameter is an error.

python -m icm_helpers.notebooks book/papers/object_region_mse.md out.ipynb -p preset smoke -p seed 1
python -m icm_helpers.notebooks book/papers/object_region_mse.md --help-notebook
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import jupytext
import papermill
import yaml
from nbformat import NotebookNode
from papermill.models import Parameter
from papermill.translators import PythonTranslator

TYPES = {"str": str, "int": int, "float": float, "bool": bool}


class ChapterError(RuntimeError):
    """A cell of a chapter failed; `partial` is the notebook up to that cell, with the traceback in it."""

    def __init__(self, message: str, partial: Path):
        super().__init__(message)
        self.partial = partial


def is_chapter(path: Path) -> bool:
    """Whether a Markdown file is a notebook: its front matter names a kernel."""
    text = path.read_text(encoding="utf-8")
    front = text.split("\n---", 1)[0] if text.startswith("---\n") else ""
    return "kernelspec" in (yaml.safe_load(front) or {})


def chapters(book: Path) -> list[Path]:
    """Every notebook chapter below a folder, in the order of their paths."""
    return [path for path in sorted(book.rglob("*.md")) if is_chapter(path)]


def read(path: Path) -> NotebookNode:
    """A MyST Markdown chapter as a notebook; FileNotFoundError where there is none, ValueError where the file names no kernel."""
    if not path.is_file():
        raise FileNotFoundError(f"no chapter at {path}")
    if not is_chapter(path):
        raise ValueError(f"{path} is not a notebook: its front matter has no kernelspec (see CONTRIBUTING.md)")
    return jupytext.read(path)


def parameters(nb: NotebookNode) -> dict[str, Parameter]:
    """The typed, commented assignments of the cell tagged ``parameters``, by name.

    >>> cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "seed: int = 0  # of the live run"}
    >>> parameters(NotebookNode(cells=[NotebookNode(cell)]))["seed"]
    Parameter(name='seed', inferred_type_name='int', default='0', help='of the live run')
    """
    tagged = [cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", [])]
    return {p.name: p for cell in tagged for p in PythonTranslator.inspect(cell)}


def check(nb: NotebookNode, given: Mapping[str, object]) -> None:
    """Refuse parameters that the notebook does not have (ValueError), and values of another type than the declared one (TypeError);
    an int may stand for a float, a bool for nothing else."""
    known = parameters(nb)
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"unknown parameter {', '.join(unknown)}: the chapter's are {', '.join(known) or 'none'}")
    for name, value in given.items():
        wanted = TYPES.get(known[name].inferred_type_name)
        if wanted and type(value) is not wanted and not (wanted is float and type(value) is int):
            raise TypeError(f"parameter {name} takes {wanted.__name__}, not {type(value).__name__} ({value!r})")


def execute(
    path: Path, output: Path, given: Mapping[str, object] | None = None, cwd: Path | None = None, progress: bool = True
) -> NotebookNode:
    """Execute a chapter with papermill into an ``.ipynb``, which appears only once every cell has run.

    `given` are values for the parameters cell, which :func:`check` checks; `cwd` is the working directory of the kernel; `progress`
    shows a bar, a step a cell. ChapterError where a cell failed.
    """
    nb, given = read(path), dict(given or {})
    try:
        check(nb, given)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{path}: {error}") from None
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(".partial.ipynb")
    try:
        # "python3" is the kernel of the running environment. It logs errors only: its warnings would break the bar.
        how = {"kernel_name": "python3", "extra_arguments": ["--IPKernelApp.log_level=40"]}
        nb = papermill.execute_notebook(nb, partial, given, cwd=cwd, progress_bar=progress, **how)
    except papermill.PapermillExecutionError as error:
        lines = "\n".join(error.traceback)[-3000:]
        source = "\n".join(f"    | {line}" for line in error.source.splitlines())
        message = f"{path}: cell {error.exec_count} failed\n{source}\n{lines}\nso far: {partial}"
        raise ChapterError(message, partial) from None
    os.replace(partial, output)
    return nb


def _value(text: str, parameter: Parameter | None) -> object:
    """A command-line word as the declared type: text stays text, the rest is a Python literal, or of the wrong type."""
    if parameter is not None and parameter.inferred_type_name != "str":
        with suppress(ValueError, SyntaxError):
            return ast.literal_eval(text)
    return text


def main(argv: list[str] | None = None) -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m icm_helpers.notebooks", description="Execute one chapter.")
    parser.add_argument("chapter", type=Path)
    parser.add_argument("output", type=Path, nargs="?", help="the executed notebook, .ipynb")
    parser.add_argument("-p", "--parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--help-notebook", action="store_true", help="list the chapter's parameters and stop")
    args = parser.parse_args(argv)
    try:
        known = parameters(read(args.chapter))
        if args.help_notebook:
            for p in known.values():
                print(f"{p.name}: {p.inferred_type_name} = {p.default:<12} {p.help}")
            return
        if args.output is None or args.output.suffix != ".ipynb":
            parser.error("name the notebook to write, ending in .ipynb")
        execute(args.chapter, args.output, {name: _value(text, known.get(name)) for name, text in args.parameters})
    except (FileNotFoundError, ValueError, TypeError, ChapterError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
