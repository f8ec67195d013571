"""What `make bench OFFICIAL=folder` measured, in `data/bench.json`: our time over that of others, how it grows, and starts."""

from __future__ import annotations

import json
import re
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from icm_helpers import files, plots


def read() -> dict[str, Any]:
    """The committed table."""
    return json.loads((files.SHIPPED / "bench.json").read_text(encoding="utf-8"))


def ratios() -> pd.DataFrame:
    """Our time over that of others for the same work."""
    told = read()
    table = [
        {
            "what": row["what"].partition("[")[0].replace("_", " "),
            "case": re.sub(r"-?(plain|authors)-?", "", row["what"].partition("[")[2].rstrip("]")),
            "against": row["against"],
            "ratio": f"{row['ratio']:.2f} [{row['least']:.2f}, {row['most']:.2f}]",
            "as run": f"{row['as_run']:.2f}",
            "theirs [s]": f"{row['theirs']:.3g}",
            "of the peak": f"{row['of_peak']:.0%}" if row["of_peak"] else "",
        }
        for row in told["rows"]
    ]
    measured = f"float32 on {told['threads']} threads of a CPU, {told['provenance']['date']}"
    return pd.DataFrame(table).set_index("what").rename_axis(index=None, columns=measured)


def growth() -> Figure:
    """Seconds and memory against pictures, megapixels and masks, on logarithmic axes; grey lines are linear."""
    rows = read()["growth"]
    units = list(dict.fromkeys(row["unit"] for row in rows))
    figure, axes = plt.subplots(
        2, len(units), figsize=(2.1 * len(units), 5), sharex="col", sharey="row", layout="constrained"
    )
    looks = dict(zip(dict.fromkeys(row["what"] for row in rows), cycle(plots.LOOKS), strict=False))
    for column, unit in zip(axes.T, units, strict=True):
        drawn = [row for row in rows if row["unit"] == unit]
        for row in drawn:
            colour, marker = looks[row["what"]]
            for ax, measured in zip(column, ("seconds", "megabytes"), strict=True):
                values = [max(v, 1e-4 if measured == "seconds" else 1e-2) for v in row[measured]]
                ax.loglog(row["sizes"], values, color=colour, marker=marker, label=row["what"].replace("_", " "))
        for ax in column:
            ax.grid(alpha=0.3)
        first = drawn[0]
        ends = [first["sizes"][0], first["sizes"][-1]]
        column[0].plot(ends, [first["seconds"][-1] * n / ends[1] for n in ends], ":", color=plots.INK, label="linear")
        column[0].legend(fontsize=8)
        column[1].set_xlabel(unit)
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("peak memory added [MB]")
    return figure


def shares() -> pd.DataFrame:
    """Where the seconds of LIC-TCM go."""
    rows = [{k: v if k in ("what", "seconds") else f"{v:.0%}" for k, v in row.items()} for row in read()["shares"]]
    return pd.DataFrame(rows).set_index("what").rename_axis(index=None, columns="LIC-TCM, 256 x 384").round(2)


def stages() -> pd.DataFrame:
    """Pictures a second of each step of judging, of the whole loop, and of this book's judging, which also has replicates of AP."""
    steps = ("encode", "decode", "detect", "score", "loop", "judging")
    rows = [
        {"codec": row["what"], "pictures": row["pictures"]}
        | {step: f"{row['pictures'] / row[step]:.3g}" for step in steps}
        | {"of which replicates": f"{row['replicates'] / row['judging']:.0%}"}
        for row in read()["stages"]
    ]
    return pd.DataFrame(rows).set_index("codec").rename_axis(index=None, columns="pictures a second")


def starts() -> pd.DataFrame:
    """Seconds of a new process that does this and ends."""
    rows = read()["starts"]
    return pd.DataFrame({"seconds": {row["what"]: f"{row['seconds']:.2f}" for row in rows}}).rename_axis(
        columns="a new process"
    )
