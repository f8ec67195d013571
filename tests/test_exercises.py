"""Checks of the exercises: a wrong answer never passes, and whatever comes is answered in words."""

import inspect

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as rle

from icm_helpers import exercises, masks

CHECKS = {name: check for name, check in vars(exercises).items() if name.startswith("check_")}


def given(check) -> list:
    """Something for each argument of a check but the solutions: enough to ask them once."""
    return [None] * (len(inspect.signature(check).parameters) - 1)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("answer", ["nothing", "a crash", "nonsense"])
def test_a_stub_a_crash_and_nonsense_are_told_in_words(check, answer):
    def yours(*_):
        if answer == "a crash":
            raise ZeroDivisionError("division by zero")
        return None if answer == "nothing" else "nonsense"

    with pytest.raises(AssertionError, match=r"[a-z]+ [a-z]+"):
        check(yours, *given(check))


def widths(first, second, pair=True, shuffle=True):
    apart = np.random.default_rng(0).permutation(second) if shuffle else second
    return [np.ptp(np.percentile(d, [2.5, 97.5])) for d in ((second if pair else apart) - first, apart - first)]


def test_widths_of_intervals_are_checked_by_what_pairing_does_to_them(capsys):
    exercises.check_widths(widths)
    assert "right" in capsys.readouterr().out
    for wrong in (lambda *_: (1, 2), lambda a, b: widths(a, b, pair=False), lambda a, b: widths(a, b, shuffle=False)):
        with pytest.raises(AssertionError, match="paired"):
            exercises.check_widths(wrong)


def square(side: int) -> masks.MaskSet:
    """One mask of a square, found for sure."""
    mask = np.zeros((16, 16), np.uint8, order="F")
    mask[4 : 4 + side, 4 : 4 + side] = 1
    coded = rle.encode(mask) | {"size": [16, 16]}
    return masks.MaskSet.of(torch.zeros(3, 16, 16), [{"rle": coded, "predicted_iou": 0.99, "stability_score": 1.0}])


def test_a_picture_without_edges_needs_no_division_by_zero():
    def share(found, alpha):
        return masks.sam_edges(found, alpha).mean().item()

    exercises.check_edge_share(share, lambda *of: 1 / (share(*of) or 1), {0: square(6)}, (0.48, 0.93))
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        exercises.check_edge_share(share, lambda *of: 1 / share(*of), {0: square(6)}, (0.48, 0.93))
    with pytest.raises(AssertionError, match="the loss sees"):
        exercises.check_edge_share(lambda found, alpha: found.decode().mean(), lambda *_: 1.0, {0: square(6)}, (0.48,))


def test_a_refusal_that_is_asked_for_is_not_taken_for_a_crash():
    def corrected(values, m, least=1):
        tail = 0.05 / m / 2
        if tail * len(values) < least:
            raise ValueError
        return tuple(np.percentile(values, [100 * tail, 100 - 100 * tail]))

    exercises.check_corrected(corrected)
    with pytest.raises(AssertionError, match="raise a ValueError"):
        exercises.check_corrected(lambda values, m: corrected(values, m, least=0))
