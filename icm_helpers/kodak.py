"""Is the photographs' codec good enough? Its BD-rate by PSNR on Kodak against HEVC intra and against the small codec.

icm grid object_region_mse --preset pending --data kodak
python -m icm_helpers.kodak
"""

from __future__ import annotations

from collections.abc import Sequence

from icm_helpers import bd
from icm_helpers.chapters.object_region_mse import KODAK, KODAK_SMALL
from icm_helpers.intervals import Interval
from icm_helpers.ledger import queries, results
from icm_helpers.ledger.results import Record

GOALS = {"hevc": 5.0, "mean-scale-small": -15.0}
"""The BD-rate [%] that the codec was wished to have at most, against each; stated before it was trained."""


def bd_rates(own: Sequence[Record], small: Sequence[Record]) -> dict[str, Interval]:
    """BD-rates [%] by PSNR of the photographs' codec, over the pictures of Kodak: against HEVC and VVC, which are among its `own`
    study's records, and against the `small` codec."""
    curves = queries.curves(own, "psnr") | {"mean-scale-small": queries.curves(small, "psnr")["mse"]}
    return {name: bd.bd_rate(curves[name], curves["mse"]) for name in ("hevc", "vvc", "mean-scale-small")}


if __name__ == "__main__":
    for name, found in bd_rates(*(results.load_or_run(s.recipes()) for s in (KODAK, KODAK_SMALL))).items():
        print(f"{KODAK.codec} against {name}: BD-rate {found} %" + (f", goal {GOALS[name]:g}" if name in GOALS else ""))
