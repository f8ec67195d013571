"""Editions of the chapters for a course: the students', with stubs in place of solutions, and the instructor's, with them.

    python -m icm_helpers.editions student _build/student       # notebooks without outputs, and one zip beside the folder
    python -m icm_helpers.editions instructor _build/instructor
    python -m icm_helpers.editions slides _build/slides             # of the chapters that `make book` has executed

A solution lies between `solution-start` and `solution-end`. Of its code a student gets the call of the check, what that call needs,
and of every function that the check is given the first line and `# YOUR CODE`.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode

from icm_helpers import notebooks

ROOT = Path(__file__).resolve().parent.parent
TO_RUN = """**To run this notebook** you need a clone of the book's repository. In it, `make env` makes the environment `.venv`,
with `icm_helpers` in it, and `make lab` opens every chapter. A notebook that lies elsewhere runs with
`.venv/bin/python -m icm_helpers.notebooks THIS.ipynb OUT.ipynb -p preset smoke`, or in any Jupyter whose kernel is that
environment; its parameters are in the first cell of code, and may be changed there."""
DIRECTIVE = re.compile(r"(?m)^`{3,}\{(exercise|solution)-(start|end)\}(.*)\n(?::.*\n)*`{3,}[ \t]*$")


def address(root: Path = ROOT) -> str:
    """Where the repository is published, of `_config.yml`; an empty text where that is not filled in."""
    config = root / "_config.yml"
    told = yaml.safe_load(config.read_text()) if config.is_file() else {}
    return (told.get("repository") or {}).get("url") or ""


def preparing(url: str) -> list[NotebookNode]:
    """The first cells of a notebook that may lie elsewhere: how to run it, and, with an address, what installs the package."""
    cells = [nbformat.v4.new_markdown_cell(TO_RUN)]
    if url:
        code = f"""# The book's package, where it is missing, as on Colab; restart the kernel if it asks for that.
import importlib.util

if importlib.util.find_spec("icm_helpers") is None:
    pins = "{url}/raw/HEAD/constraints.txt"
    %pip install --quiet --constraint {{pins}} "icm-book[anchors] @ git+{url}\""""
        cells.append(nbformat.v4.new_code_cell(code))
    for cell in cells:
        cell.metadata["tags"] = ["remove-cell"]
    return cells


def _parts(nb: NotebookNode) -> Iterator[tuple[bool, NotebookNode, str]]:
    """The cells of a chapter, text cut at the borders of solutions: whether it is part of one, the cell, its source."""
    inside = False
    for cell in nb.cells:
        if cell.cell_type != "markdown":
            yield inside, cell, cell.source
            continue
        start = 0
        for found in DIRECTIVE.finditer(cell.source):
            yield inside, cell, cell.source[start : found.start()]
            start = found.end()
            kind, end, title = found.groups()
            if kind == "solution":
                inside = end == "start"
            elif end == "start":
                yield False, cell, f"### Exercise: {title.strip()}"
        yield inside, cell, cell.source[start:]


def stub(code: str) -> str:
    """What a student gets of a solution's cell: '' where nothing is asked.

    >>> print(stub("def half(x):\\n    return x / 2\\n\\n\\nn = 4\\ncheck_half(half, n)\\nprint(half(3))"))
    def half(x):
        # YOUR CODE
        ...
    <BLANKLINE>
    <BLANKLINE>
    n = 4
    check_half(half, n)
    """
    body = ast.parse(code).body
    checks = [node for node in body if _check(node)]
    if not checks:
        return ""
    defined = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    given = {arg.id for node in checks for arg in ast.walk(node) if isinstance(arg, ast.Name)}
    asked = [name for name in defined if name in given]
    needed, kept = given - set(asked), []
    for node in reversed(body):
        binds = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        name = getattr(node, "name", None)
        if node in checks or (name not in asked and (binds | {name}) & needed):
            kept.insert(0, ast.get_source_segment(code, node))
            needed |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - set(asked)
    lines = code.splitlines()
    heads = ["\n".join(lines[f.lineno - 1 : f.body[0].lineno - 1]) for f in map(defined.get, asked)]
    return "\n\n\n".join([*(f"{head}\n    # YOUR CODE\n    ..." for head in heads), "\n".join(kept)])


def _check(node: ast.stmt) -> bool:
    """Whether a statement calls a check, by itself or for what it gives."""
    calls = [call for call in ast.walk(node) if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)]
    return not isinstance(node, ast.FunctionDef) and any(call.func.id.startswith("check_") for call in calls)


def student(nb: NotebookNode) -> NotebookNode:
    """A chapter without solutions and outputs; cells with a stub may fail, so that the rest of a notebook runs."""
    cells, last = [], None
    for inside, cell, text in _parts(nb):
        if cell.cell_type == "markdown":
            if not inside and text.strip():
                same = last is not None and cells and cells[-1].cell_type == "markdown"
                if same:
                    cells[-1].source += f"\n\n{text.strip()}"
                else:
                    cells.append(nbformat.v4.new_markdown_cell(text.strip()))
        elif not inside:
            cells.append(nbformat.v4.new_code_cell(text, metadata=cell.metadata))
        elif asked := stub(text):
            cells.append(nbformat.v4.new_code_cell(asked, metadata={"tags": ["raises-exception", "exercise"]}))
        last = cell
    return numbered(nbformat.v4.new_notebook(cells=cells, metadata=nb.metadata))


def instructor(nb: NotebookNode) -> NotebookNode:
    """A chapter with its solutions, whose borders any Jupyter shows as headings, without outputs."""
    cells, opened = [], False
    for inside, cell, text in _parts(nb):
        if cell.cell_type == "markdown":
            told = f"#### Solution\n\n{text.strip()}" if inside and not opened else text.strip()
            if told:
                cells.append(nbformat.v4.new_markdown_cell(told))
        else:
            cells.append(nbformat.v4.new_code_cell(text, metadata=cell.metadata))
        opened = inside
    return numbered(nbformat.v4.new_notebook(cells=cells, metadata=nb.metadata))


def examined(nb: NotebookNode) -> NotebookNode:
    """A chapter in which every stub is tried before its solution: a stub must fail, in words that say that nothing is returned."""
    cells = []
    for inside, cell, text in _parts(nb):
        if cell.cell_type != "markdown":
            if inside and (asked := stub(text)):
                tried = "\n".join(f"    {line}" for line in asked.splitlines())
                cells.append(nbformat.v4.new_code_cell(f"try:\n{tried}\n{_JUDGED}"))
            cells.append(nbformat.v4.new_code_cell(text, metadata=cell.metadata))
    return numbered(nbformat.v4.new_notebook(cells=cells, metadata=nb.metadata))


def slides(nb: NotebookNode) -> NotebookNode:
    """An executed chapter as a talk: a slide for each section, with the first sentence of its first paragraphs, and one for each
    figure and each short cell that is shown; no exercises, and no sentence whose numbers come from the ledger."""
    cells: list[NotebookNode] = []

    def add(cell: NotebookNode, kind: str) -> None:
        cell.metadata["slideshow"] = {"slide_type": kind}
        cells.append(cell)

    exercises = False
    for _, cell, text in _parts(nb):
        if cell.cell_type == "markdown":
            for part in re.split(r"(?m)^(?=#{1,3} )", text):
                if part.startswith("#"):
                    exercises = part.startswith(("## Exercises", "### Exercise", "## Your own"))
                    head, _, rest = part.partition("\n")
                    if not exercises:
                        add(nbformat.v4.new_markdown_cell("\n\n".join([head, *_points(rest)])), "slide")
            continue
        kinds = {"image/png", "text/markdown"}  # figures, and what came out in short
        images = [o for o in cell.get("outputs", []) if kinds & o.get("data", {}).keys()]
        lines, tags = text.splitlines(), cell.metadata.get("tags", [])
        if exercises or not (images or (len(lines) <= 12 and not {"hide-input", "parameters"} & {*tags})):
            continue
        shown = nbformat.v4.new_code_cell(text, outputs=images or cell.get("outputs", []))
        shown.metadata["tags"] = ["remove-input"] if images else []
        add(shown, "subslide")
        if caption := cell.metadata.get("mystnb", {}).get("figure", {}).get("caption"):
            add(nbformat.v4.new_markdown_cell(_plain(caption.partition(". ")[0])), "-")
    return numbered(nbformat.v4.new_notebook(cells=cells, metadata=nb.metadata))


def _plain(text: str) -> str:
    """Text without the roles of the book's pages."""
    text = re.sub(r" ?\{cite:\w+\}`[^`]*`", "", text)
    return re.sub(r"\{\w+\}`([^`<]*?)(?: <[^`]*>)?`", lambda m: m[1].rpartition("/")[2], text)


def _points(text: str) -> list[str]:
    """The first sentence of each of the first paragraphs below a heading, and formulas."""
    paragraphs = [
        p.strip() for p in re.split(r"\n\s*\n", re.sub(r"(?s)^```.*?^```", "", text, flags=re.M)) if p.strip()
    ]
    points = []
    for paragraph in paragraphs:
        if paragraph.startswith("$$"):
            points.append(paragraph)
        elif re.match(r"\d+\. ", paragraph):
            points.append(_plain(paragraph))
        elif not paragraph.startswith(("|", "*", "```", "    ", ":")):
            said = re.split(r"(?<=[.?!])\s(?=[^a-z\d])", paragraph.replace("\n", " "))[: 1 if points else 3]
            points += [f"- {_plain(sentence)}" for sentence in said if "{glue" not in sentence]
    return points[:4]


TALK = r"""{% extends "index.html.j2" %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}<script>MathJax = {tex: {inlineMath: [["$", "$"], ["\\(", "\\)"]]}}</script>
<script src="tex-svg-full.js"></script>{% endblock %}
{% block footer_js %}<script src="reveal/dist/reveal.js"></script>
<script>Reveal.initialize({hash: true, width: 960, height: 700})</script>{% endblock %}"""


def write_slides(folder: Path, root: Path = ROOT) -> list[Path]:
    """A talk in HTML for each chapter that was executed, with copies of RevealJS and MathJax beside them; no network is needed.

    Raises:
        FileNotFoundError: no chapter was executed.
    """
    from nbconvert import SlidesExporter  # comes with jupyter-book
    from traitlets.config import Config

    book, done = root / "book", root / "_build" / "executed"
    pages = [p for p in notebooks.chapters(book) if p.parent != book and not p.stem.endswith("_appendix")]
    executed = [done / p.relative_to(book).with_suffix(".ipynb") for p in pages]
    executed = [path for path in executed if path.is_file()]
    if not executed:
        raise FileNotFoundError(f"nothing is executed in {done}: run `make book` first")
    config = Config({"TagRemovePreprocessor": {"remove_input_tags": ["remove-input"], "enabled": True}})
    config.SlidesExporter.exclude_input_prompt = config.SlidesExporter.exclude_output_prompt = True
    exporter, written = SlidesExporter(config=config, raw_template=TALK, reveal_url_prefix="reveal"), []
    shutil.copytree(files("sphinx_revealjs") / "_static/revealjs", folder / "reveal", dirs_exist_ok=True)
    shutil.copy(files("sphinx-mathjax-offline") / "static/mathjax/tex-svg-full.js", folder)
    for path in executed:
        html, _ = exporter.from_notebook_node(slides(nbformat.read(path, as_version=4)))
        written.append(folder / f"{path.stem}.html")
        written[-1].write_text(html)
    return written


_JUDGED = """except AssertionError as told:
    assert "returns nothing" in str(told), told
else:
    raise SystemError("a stub passes its check")"""


def numbered(nb: NotebookNode) -> NotebookNode:
    """A notebook whose cells have the same ids at each reading."""
    for k, cell in enumerate(nb.cells):
        cell["id"] = f"cell-{k}"
    return nb


def write(edition: str, folder: Path, root: Path = ROOT) -> Path:
    """All chapters as notebooks of an edition, below a folder that is made anew, and a zip of it; the zip is returned.

    Raises:
        FileExistsError: the folder holds what no edition writes.
    """
    url, make = address(root), {"student": student, "instructor": instructor}[edition]
    kept = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".ipynb" and p.name != "requirements.txt")
    if strange := next(kept, None):
        raise FileExistsError(f"{folder} holds {strange.name}, which belongs to no edition: name another folder")
    if folder.exists():
        shutil.rmtree(folder)
    for chapter in notebooks.chapters(root / "book"):
        path = folder / chapter.relative_to(root / "book").with_suffix(".ipynb")
        path.parent.mkdir(parents=True, exist_ok=True)
        nb = make(notebooks.read(chapter))
        nb.cells = [*preparing(url), *nb.cells]
        nbformat.write(numbered(nb), path)
    if url:
        (folder / "requirements.txt").write_text(f"icm-book[anchors] @ git+{url}\n")  # for Binder
    return Path(shutil.make_archive(str(folder), "zip", folder))


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(description="Write the chapters as notebooks for a course.")
    parser.add_argument("edition", choices=["student", "instructor", "slides"])
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    try:
        if args.edition == "slides":
            print(*write_slides(args.folder), sep="\n")
        else:
            print(f"{args.edition} edition: {args.folder}, and all of it in {write(args.edition, args.folder)}")
    except OSError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
