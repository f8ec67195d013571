"""How long and how hard to read the pages are: minutes, words, tables, mean and longest sentence, as a table in Markdown.

    .venv/bin/python book/measure.py

Words are those of the text, without code, tables and what cells print. Tables are those of the text and, of chapters that were
executed, those that cells show. Minutes are at 200 words, 20 lines of shown code, and two figures each.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat

from icm_helpers import notebooks

ROOT = Path(__file__).resolve().parent.parent
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
ROLE = re.compile(r"\{[\w:]+\}`([^`<]*?)(?: <[^`]*>)?`")


def prose(text: str) -> list[str]:
    """The paragraphs and items of a page's text, without headings, tables, formulas, figures and code."""
    lines, skipped = [], ""  # skipped: the fence of a block that is not prose
    for line in re.sub(r"(?s)\$\$.*?\$\$", "", text).split("\n"):
        fence = re.match(r"(`{3,})(?:\{([\w-]+)\})?", line)
        if fence and (
            skipped or fence[2] in (None, "code-cell", "figure", "bibliography", "autofunction", "autoclass")
        ):
            closes = not fence[2] and fence[1] == skipped
            skipped = "" if closes else skipped or (fence[1] if line != fence[1] or fence[2] else "")
            lines.append("")
        elif fence or skipped or re.match(r"#|\||\s{4}\S|:\w+:|\(.*\)=$", line):
            lines.append("")
        else:
            lines.append(re.sub(r"^\s*(?:[-*>]|\d+\.|:) ", "\n", line))
    text = re.sub(r" ?\{cite:\w+\}`[^`]*`", "", "\n".join(lines))
    text = re.sub(r"\{glue:text\}`[^`]*`", "X", text)  # a number, or a word
    text = ROLE.sub(lambda m: m[1].rpartition("/")[2] or "X", text)
    text = re.sub(r"\$[^$]*\$|`[^`]*`", "X", text)
    return [" ".join(p.split()) for p in re.split(r"\n\s*\n", text) if p.strip()]


def sentences(text: str) -> list[int]:
    """How many words each sentence of a text has."""
    parts = [s for p in prose(text) for s in re.split(r"(?<=[.?!:;])[*)”\"]*\s+(?=[^a-z])", p)]
    counts = [len(re.findall(r"[\w'\u2019\u03b1-\u03c9%-]*\w[\w'\u2019-]*", part)) for part in parts]
    return [n for n in counts if n > 2]


def measure(path: Path, root: Path = ROOT) -> dict[str, float]:
    """A page's row."""
    if not notebooks.is_chapter(path):
        text, shown, figures, tables = path.read_text(), 0, 0, 0
    else:
        cells = notebooks.read(path).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        code = [cell for cell in cells if cell.cell_type == "code"]
        visible = (c.source.splitlines() for c in code if not FOLDED & {*c.metadata.get("tags", [])})
        shown = sum(bool(line.strip()) for lines in visible for line in lines)
        figures = sum("figure" in cell.metadata.get("mystnb", {}) for cell in code)
        executed = root / "_build" / "executed" / path.relative_to(root / "book").with_suffix(".ipynb")
        tables = _shown(executed) if executed.is_file() else 0
    tables += len(re.findall(r"(?m)^\| ?-", text))
    lengths = sentences(text)
    words = sum(lengths)
    minutes = words / 200 + shown / 20 + figures / 2
    mean = words / max(1, len(lengths))
    return {"minutes": minutes, "words": words, "tables": tables, "mean": mean, "longest": max(lengths, default=0)}


def _shown(executed: Path) -> int:
    """The tables that the cells of an executed chapter show."""
    data = [
        output.get("data", {})
        for cell in nbformat.read(executed, as_version=4).cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    return sum("<table" in d.get("text/html", "") or "| --- |" in d.get("text/markdown", "") for d in data)


def main(root: Path = ROOT) -> None:
    """Print the table."""
    print("| page | minutes | words | tables | words a sentence | longest |\n| --- | --: | --: | --: | --: | --: |")
    for path in sorted((root / "book").rglob("*.md")):
        name, row = path.relative_to(root / "book").with_suffix("").as_posix(), measure(path, root)
        told = [f"{value:.{digits}f}" for value, digits in zip(row.values(), (0, 0, 0, 1, 0), strict=True)]
        print(f"| {name} | {' | '.join(told)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT)
