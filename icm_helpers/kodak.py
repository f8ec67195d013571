"""Is the photographs' codec good enough? Its BD-rate by PSNR on Kodak against HEVC intra, VVC and the small codec.

icm grid object_region_mse --data kodak
python -m icm_helpers.kodak
"""

from __future__ import annotations

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from icm_helpers import bd, plots
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


def bd_rates() -> dict[str, Interval]:
    """BD-rates [%] by PSNR of the photographs' codec against each other one, over the pictures of Kodak."""
    drawn = curves()
    return {name: bd.bd_rate(curve, drawn[KODAK.codec]) for name, curve in drawn.items() if name != KODAK.codec}


def figure() -> Figure:
    """:func:`curves`, drawn."""
    drawn, (shown, ax) = curves(), plt.subplots(figsize=(6.4, 4.2))
    networks = dict(zip((KODAK.codec, KODAK_SMALL.codec), plots.LOOKS, strict=False))
    for name, curve in drawn.items():
        colour, marker, label = (*networks[name], name) if name in networks else plots.METHODS[name]
        ax.plot(curve.bpp, curve.metric, marker=marker, color=colour, label=label)
    plots.rate_axis(ax, "PSNR [dB]")
    ax.legend()
    return shown


def report() -> None:
    """Print :func:`bd_rates`, with the goals."""
    for name, found in bd_rates().items():
        goal = f" (goal {GOALS[name]:+g})" if name in GOALS else ""
        print(f"{KODAK.codec} against {name}, BD-rate [%]: {found}{goal}")


if __name__ == "__main__":
    report()
