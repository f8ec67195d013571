"""Build the book: execute the chapters that changed, then render all of it with warnings as errors.

    .venv/bin/python book/build.py [--preset book] [--only papers/object_region_mse] [--notebooks]

A chapter is executed again when anything that its outputs can depend on has changed: its code, icm_helpers, the committed data,
the pins, the Python version or the preset. Prose around the same code is rendered with the outputs that are there. Everything
lands in _build:

    executed/   the chapters with their outputs, each carrying the key that it was executed under
    failed/     a chapter that failed, up to the failing cell
    src/        what Sphinx reads: book/ with each text notebook's outputs added to it
    html/       the rendered book
    notebooks/  with --notebooks, which executes nothing: the chapters as plain notebooks, for papermill and others
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib import resources
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from PIL import Image

from icm_helpers import editions, files, notebooks

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = """
launch_buttons:
  notebook_interface: jupyterlab
  colab_url: https://colab.research.google.com
  binderhub_url: https://mybinder.org
"""
CHART = 'class="rate-accuracy"'  # of what `icm_helpers.ledger.interactive` leaves beside a figure


def digest(root: Path, files: Iterable[Path], *facts: str) -> str:
    """One key for the names and contents of files and a few facts."""
    sha = hashlib.sha256("\0".join(facts).encode())
    for path in sorted(set(files)):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        sha.update(f"\0{path.relative_to(root).as_posix()}\0{content}".encode())
    return sha.hexdigest()


def tree(folder: Path) -> list[Path]:
    """Every file below a folder, without caches and hidden files."""
    skipped = {"__pycache__", "_build"}
    found = (path for path in folder.rglob("*") if path.is_file())
    return [p for p in found if not any(part in skipped or part[0] == "." for part in p.relative_to(folder).parts)]


def shared_key(root: Path, preset: str) -> str:
    """The key of what all chapters depend on."""
    shared = [*(root / "icm_helpers").rglob("*.py"), root / "pyproject.toml", root / "constraints.txt"]
    # Not what was fetched: pictures are large, and weights have their fingerprints in the code.
    folders = [root / "data" / name for name in ("checkpoints", "results", "leaderboard")]
    data = [*filter(Path.is_file, (root / "data").glob("*")), *(path for folder in folders for path in tree(folder))]
    return digest(root, [*shared, *data], preset, platform.python_version())


def chapter_key(nb: NotebookNode, shared: str) -> str:
    """The key of a chapter's outputs: equal keys, equal outputs."""
    return digest(ROOT, [], shared, *(cell.source for cell in nb.cells if cell.cell_type == "code"))


def is_fresh(executed: Path, key: str) -> bool:
    """Whether an executed chapter exists, can be read, and carries the key."""
    if not executed.is_file():
        return False
    try:
        return nbformat.read(executed, as_version=4).metadata.get("icm_key") == key
    except ValueError:  # cut off, as by a loss of power
        return False


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs, of which prints that follow each other are one, whenever the kernel sent them; what was shown in between divides
    them, so that a table's title stays above its table. Left out are empty prints, and lines written over themselves, as bars
    are: they are for who waits."""
    whole: list[NotebookNode] = []
    for output in outputs:
        if whole and output.output_type == "stream" and output.get("name") == whole[-1].get("name"):
            whole[-1].text += output.text
        else:
            whole.append(output)
    for output in whole:
        if output.output_type == "stream":
            output.text = re.sub(r"[^\n]*\r[^\n]+\n?", "", output.text)
    return [output for output in whole if output.output_type != "stream" or output.text.strip()]


def seal(nb: NotebookNode, executed: Path, key: str) -> None:
    """Write an executed chapter with its key, its prints :func:`joined`, and without what papermill noted about this machine."""
    nb.metadata.pop("papermill", None)
    nb.metadata["icm_key"] = key
    for cell in nb.cells:
        cell.metadata.pop("papermill", None)
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    with files.atomically(executed) as temporary:
        nbformat.write(nb, temporary)


def execute_stale(root: Path, preset: str, only: str | None = None) -> list[Path]:
    """Execute the chapters whose key changed, one for each two cores side by side, or two; returns them.

    Raises:
        ValueError: `only` names no chapter.
        ChapterError: a chapter failed. The others are kept, so the next call goes on from there.
    """
    book, build = root / "book", root / "_build"
    names = {chapter.relative_to(book).with_suffix("").as_posix(): chapter for chapter in notebooks.chapters(book)}
    if only is not None and only not in names:
        raise ValueError(f"--only {only}: no such chapter; there are {', '.join(names) or 'none'}")
    executed = {name: build / "executed" / f"{name}.ipynb" for name in names}
    shared = shared_key(root, preset)
    keys = {name: chapter_key(notebooks.read(chapter), shared) for name, chapter in names.items()}
    stale = [name for name in names if only in (None, name) and not is_fresh(executed[name], keys[name])]
    print(f"chapters: {len(names)}, up to date: {len(names) - len(stale)}, to execute: {len(stale)}", flush=True)
    if not stale:
        return []
    cores = os.cpu_count() or 1
    jobs = min(max(2, cores // 2), len(stale))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // jobs)))
    start = time.monotonic()

    def run(name: str) -> None:
        try:
            how = {"cwd": root, "progress": jobs == 1, "forked": len(stale) > 1}
            nb = notebooks.execute(names[name], executed[name], {"preset": preset}, **how)
        except notebooks.ChapterError as error:
            failed = build / "failed" / f"{name}.ipynb"
            failed.parent.mkdir(parents=True, exist_ok=True)
            os.replace(error.partial, failed)
            raise notebooks.ChapterError(str(error).replace(str(error.partial), str(failed)), failed) from None
        seal(nb, executed[name], keys[name])
        (build / "failed" / f"{name}.ipynb").unlink(missing_ok=True)

    # The chapters with most code first, so that no long one is left alone at the end.
    stale.sort(key=lambda name: -len(names[name].read_bytes()))
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(run, name): name for name in stale}
        try:
            for done, future in enumerate(as_completed(running), start=1):
                future.result()
                elapsed = time.monotonic() - start
                eta = f", about {elapsed / done * (len(stale) - done):.0f} s to go" if done < len(stale) else ""
                print(
                    f"[{done}/{len(stale)}] {running[future]} (preset {preset}; {elapsed:.0f} s so far{eta})",
                    flush=True,
                )
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [names[name] for name in stale]


def with_outputs(text: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """A chapter as its text is now, with the outputs that its code gave; the reader sees the documented parameters, once."""
    ran = [cell for cell in executed.cells if cell.cell_type == "code"]
    for cell, done in zip((c for c in text.cells if c.cell_type == "code"), ran, strict=True):
        cell.outputs, cell.execution_count = done.outputs, done.execution_count
    text.metadata = executed.metadata
    return alone(explored(text))


def explored(nb: NotebookNode) -> NotebookNode:
    """A chapter with what interactive figures draw in one cell at its end, each named by the picture that it replaces: where it was
    shown, the page would give it a caption and a number of its own."""
    charts = []
    for cell in (cell for cell in nb.cells if cell.cell_type == "code"):
        kept, picture = [], ""
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:  # as MyST-NB names its file
                picture = hashlib.sha256(base64.b64decode(data["image/png"])).hexdigest()
            if CHART in (html := "".join(data.get("text/html", ""))):
                charts.append(html.replace(CHART, f'{CHART} data-picture="{picture}"', 1))
            else:
                kept.append(output)
        cell.outputs = kept
    if charts:
        output = nbformat.v4.new_output("display_data", {"text/html": "\n".join(charts)})
        told = "# What a page's script draws over its figures. MyST-NB would leave out a cell without text."
        nb.cells.append(nbformat.v4.new_code_cell(told, outputs=[output], metadata={"tags": ["remove-input"]}))
    return nb


def alone(text: NotebookNode) -> NotebookNode:
    """A chapter that can be downloaded: it says first, which pages do not show, how to run it."""
    text.cells = [*editions.preparing(editions.address(ROOT)), *text.cells]
    return editions.numbered(text)  # else new ids at each reading, and the pages would never be up to date


def write_notebooks(root: Path) -> Path:
    """The chapters as plain notebooks without outputs, in the folder that is returned."""
    folder = root / "_build" / "notebooks"
    for chapter in notebooks.chapters(root / "book"):
        path = folder / chapter.relative_to(root / "book").with_suffix(".ipynb")
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(alone(notebooks.read(chapter)), path)
    return folder


def assemble(root: Path) -> Path:
    """Lay out what Sphinx reads: book/ with the outputs of each text notebook."""
    book, source = root / "book", root / "_build" / "src"
    shutil.rmtree(source, ignore_errors=True)
    chapters = set(notebooks.chapters(book))
    for path in tree(book):
        name = path.relative_to(book)
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if path in chapters:
            name = name.with_suffix(".ipynb")
            executed = nbformat.read(root / "_build" / "executed" / name, as_version=4)
            nbformat.write(with_outputs(notebooks.read(path), executed), source / name)
        elif path.suffix not in {".py", ".ipynb"}:
            shutil.copyfile(path, source / name)
    return source


def with_buttons(config: Path, folder: Path) -> Path:
    """The configuration with buttons that open pages elsewhere, written to a folder; without an address, the one that is there."""
    if not editions.address(config.parent):
        return config  # the theme fails on buttons without an address
    path = folder / config.name
    path.write_text(config.read_text() + LAUNCH)
    return path


def render(root: Path, source: Path) -> Path:
    """Run Jupyter Book with warnings as errors, unless the pages of just this source exist; returns the first page.

    Raises:
        RuntimeError: there were warnings or errors; Sphinx has printed them.
    """
    build, config = root / "_build", root / "_config.yml"
    index, stamp = build / "html" / "index.html", build / "html.key"
    key = digest(root, [*tree(source), config, root / "constraints.txt"])
    if index.is_file() and stamp.is_file() and stamp.read_text() == key:
        print("pages: up to date")
        return index
    stamp.unlink(missing_ok=True)
    # From nothing, because Sphinx warns only of the pages that it reads again, and keeps pages that are gone.
    for name in ("html", ".doctrees"):
        shutil.rmtree(build / name, ignore_errors=True)
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(source), "--config"]
    command.append(str(with_buttons(config, build)))
    if subprocess.run([*command, "--path-output", str(root), "-W", "-n", "--keep-going"], cwd=root).returncode:
        raise RuntimeError("the pages have warnings (listed above), which count as errors")
    # What draws interactive figures, once for all pages, which load it only where there are some. Beside the others of `_static`
    # before, Jupyter Book would load it on every page.
    shutil.copyfile(
        resources.files("plotly") / "package_data" / "plotly.min.js", index.parent / "_static" / "plotly.min.js"
    )
    lighten(index.parent, build / "webp")
    for page in (build / "html" / "_sources").rglob("*.ipynb"):  # what a page offers to download has no solutions
        nbformat.write(editions.student(nbformat.read(page, as_version=4)), page)
    stamp.write_text(key)
    return index


def lighten(html: Path, cache: Path) -> None:
    """Make a site lighter: pictures as lossless WebP, MathJax without what no page loads, spoken formulas in English alone.

    Names of pictures are their contents': the folder `cache` keeps what was converted before.
    """
    cache.mkdir(exist_ok=True)

    def convert(png: Path) -> None:
        made = cache / f"{png.stem}.webp"
        if not made.is_file():
            with files.atomically(made) as temporary:
                Image.open(png).save(temporary, "webp", lossless=True, method=2, quality=30)
        shutil.copyfile(made, png.with_suffix(".webp"))
        png.unlink()

    with ThreadPoolExecutor() as pool:
        list(pool.map(convert, (html / "_images").glob("*.png")))
    for page in html.rglob("*.html"):
        page.write_text(re.sub(r"(_images/[0-9a-f]{64})\.png", r"\1.webp", page.read_text()))
    mathjax = html / "_static" / "mathjax"
    kept = {"tex-chtml.js", "base.json", "en.json"}
    for file in (*mathjax.glob("*.js"), *mathjax.rglob("mathmaps/*.json")):
        if file.name not in kept:
            file.unlink()


def main() -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(description="Execute the chapters that changed and render the book.")
    parser.add_argument("--preset", default="book", help="smoke, book or paper")
    parser.add_argument("--only", metavar="CHAPTER", help="execute this chapter only, and render nothing")
    parser.add_argument("--notebooks", action="store_true", help="only write the chapters as .ipynb, without outputs")
    args = parser.parse_args()
    if args.notebooks:
        print(f"notebooks: {write_notebooks(ROOT)}")
        return
    start = time.monotonic()
    try:
        execute_stale(ROOT, args.preset, args.only)
        if args.only:
            print(f"executed: {ROOT / '_build' / 'executed' / args.only}.ipynb")
            return
        index = render(ROOT, assemble(ROOT))
    except KeyboardInterrupt:
        sys.exit("stopped; the chapters executed so far are kept, and the same command continues from there")
    except (notebooks.ChapterError, ValueError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"Done in {time.monotonic() - start:.0f} s. Open {index.as_uri()}")


if __name__ == "__main__":
    main()
