"""What `make bench OFFICIAL=folder` measured, in `data/bench.json`: our time over that of others, and what starts cost."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from icm_helpers import files


def read() -> dict[str, Any]:
    """The committed table."""
    return json.loads((files.SHIPPED / "bench.json").read_text(encoding="utf-8"))


def ratios() -> pd.DataFrame:
    """Our time over that of others for the same work."""
    told = read()
    table = [
        {
            "what": row["what"].partition("[")[0].replace("_", " "),
            "case": row["what"].partition("[")[2].rstrip("]"),
            "against": row["against"],
            "ratio": f"{row['ratio']:.2f} [{row['least']:.2f}, {row['most']:.2f}]",
            "as run": f"{row['as_run']:.2f}",
            "theirs [s]": f"{row['theirs']:.3g}",
            "of the peak": f"{row['of_peak']:.0%}" if row["of_peak"] else "",
        }
        for row in told["rows"]
    ]
    measured = f"float32 on {told['threads']} threads of a CPU, {told['provenance']['date']}"
    return pd.DataFrame(table).set_index("what").rename_axis(measured)


def starts() -> pd.DataFrame:
    """Seconds of a new process that does this and ends."""
    rows = read()["starts"]
    return pd.DataFrame({"seconds": {row["what"]: f"{row['seconds']:.2f}" for row in rows}}).rename_axis(
        "a new process"
    )
