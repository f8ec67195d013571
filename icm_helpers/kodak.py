"""Is the photographs' codec good enough? Its BD-rate by PSNR on Kodak against HEVC intra, VVC and the small codec.

icm grid object_region_mse --data kodak
python -m icm_helpers.kodak
"""

from __future__ import annotations

from collections.abc import Mapping

from icm_helpers import bd
from icm_helpers.bd import Curve
from icm_helpers.chapters.object_region_mse import KODAK, KODAK_SMALL
from icm_helpers.intervals import Interval
from icm_helpers.ledger import queries, results

GOALS = {"hevc": 5.0, "mean-scale-small": -15.0}
"""The BD-rate [%] that the codec was wished to have at most, against each; stated before it was trained."""


def curves() -> dict[str, Curve]:
    """Rate and PSNR on Kodak of the photographs' codec, the small one, both for MSE, and of HEVC and VVC, from the ledger.

    Raises:
        results.LedgerError: they are not measured.
    """
    own, small = (queries.curves(results.load_or_run(study.recipes()), "psnr") for study in (KODAK, KODAK_SMALL))
    return {KODAK.codec: own["mse"], KODAK_SMALL.codec: small["mse"], "hevc": own["hevc"], "vvc": own["vvc"]}


def bd_rates(drawn: Mapping[str, Curve]) -> dict[str, Interval]:
    """BD-rates [%] by PSNR of the photographs' codec against each other one, over the pictures of Kodak."""
    return {name: bd.bd_rate(curve, drawn[KODAK.codec]) for name, curve in drawn.items() if name != KODAK.codec}


if __name__ == "__main__":
    for name, found in bd_rates(curves()).items():
        print(f"{KODAK.codec} against {name}: BD-rate {found} %" + (f", goal {GOALS[name]:g}" if name in GOALS else ""))
