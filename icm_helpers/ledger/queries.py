"""What records say: grouped by method, judged by whom, as curves of rate and accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from icm_helpers import chapters, files
from icm_helpers.bd import Curve, bd_rate, curve
from icm_helpers.evaluate import resamplings
from icm_helpers.intervals import Interval
from icm_helpers.ledger import results
from icm_helpers.ledger.recipe import Accuracy, Clip, flat
from icm_helpers.ledger.results import Record

FINETUNED = "-finetuned"
"""Ends the name, in a record, of a detector that was trained further on what the record's codec decodes."""
NAMES = {
    **{"box_ap": "box AP", "mask_ap": "mask AP", "agreement": "agreement AP", "missed_to_found": "missed over found"},
    **{"texture_auc": "AUC of textures", "shape_ap": "AP of shapes", "boundary_f": "boundary F-score", "psnr": "PSNR"},
    **{"psnr_inside": "PSNR inside objects", "psnr_outside": "PSNR outside objects"},
    **{"box_ap50": "box AP at IoU .5", "pq": "PQ", "pq_things": "PQ of things", "pq_stuff": "PQ of stuff"},
    **{"found_ap": "box AP of found objects", "missed_ap": "box AP of missed objects"},
    "miou": "mean IoU",
}
UNITS = {name: "dB" if name.startswith("psnr") else "" for name in NAMES}
"""Unit of a metric's mean difference."""


def methods(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by what a figure calls the method: `mse`, `object-region`, `jpeg`, `png`, `sa-icm-0.93`, `refined-mse`, ..."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.recipe.method, []).append(record)
    return groups


def facts(record: Record) -> dict[str, Any]:
    """What a recipe says that figures and tables sort by, under names that :func:`select` knows.

    `kind` is trained, classical, refined (latents), spent (where bits go) or probed (what textures are left); `method` what a curve
    is called; `lmbda` whatever decides the rate; the rest are the recipe's own.
    """
    recipe, content = record.recipe, flat(record.recipe)
    names = ("data", "loss", "lmbda", "seed", "codec", "clip", "steps", "lr", "alpha", "beta", "mask_weight")
    told = {name: content.get(name, getattr(recipe.loss, name, None)) for name in names}
    return {"kind": recipe.kind, "method": recipe.method, **told}


def select(records: Iterable[Record], **wanted: Any) -> list[Record]:
    """The records whose :func:`facts` are these (a KeyError: no such fact); a tuple, list or set lets each of its values pass."""
    several = {name: value if isinstance(value, list | tuple | set) else (value,) for name, value in wanted.items()}
    told = ((record, facts(record)) for record in records)
    return [record for record, fact in told if all(fact[name] in values for name, values in several.items())]


def tuned(records: Iterable[Record]) -> list[Record]:
    """The records as fine-tuned detectors judge them, under the names that these had before; [] where none does."""

    def by_tuned(part: dict[str, Any]) -> dict[str, Any]:
        judged = {k: {j: x for j, x in v.items() if j.endswith(FINETUNED)} for k, v in part.items() if type(v) is dict}
        kept = {k: {j.removesuffix(FINETUNED): x for j, x in v.items()} for k, v in judged.items() if v}
        return kept and {k: v for k, v in part.items() if type(v) is not dict} | kept

    judged = [replace(r, result=by_tuned(r.result), bootstrap=by_tuned(r.bootstrap)) for r in records]
    return _tuned_alike([r for r in judged if r.result])


def _tuned_alike(records: Sequence[Record]) -> list[Record]:
    """Of records by fine-tuned detectors, those whose detectors were trained as the last one's: others are other judges."""
    ways = [replace(r.recipe.measured, detectors=(), finetuned=(), divided="none") for r in records]
    return [r for r, way in zip(records, ways, strict=True) if way == ways[-1]]


def judges(records: Sequence[Record], metric: str, *, finetuned: bool = True) -> list[str | None]:
    """The detectors that a metric was measured with, in the order that the records asked for, or only those not `finetuned`;
    [None] for a metric of the picture alone; [] where it was not measured."""
    measured = [r.result[metric] for r in records if metric in r.result and metric in r.bootstrap]
    if not measured or not isinstance(measured[0], dict):
        return [None] * bool(measured)
    asked = [files.unmarked(name)[0] for r in records for name in r.recipe.measured.detectors]
    found = {name for name in set().union(*measured) if finetuned or not name.endswith(FINETUNED)}
    return sorted(found, key=lambda name: (asked.index(name) if name in asked else len(asked), name))


def curves(
    records: Sequence[Record], metric: str, judge: str | None = None, names: Sequence[str] | None = None
) -> dict[str, Curve]:
    """One curve for each method, or each of these `names`, that was measured so, with at least two points; of videos, one over all
    clips (:func:`pooled`), which holds those of each."""
    heard = [r for r in records if judge in judges([r], metric)]
    heard = _tuned_alike(heard) if judge and judge.endswith(FINETUNED) else heard
    # What is no model's, such as PSNR, is there twice where others judged a codec another time.
    once: dict[Any, Record] = {}
    for r in heard:
        once.setdefault((r.recipe.method, r.recipe.pictures, r.recipe.codec, r.recipe.setting), r)
    heard = [*once.values()]
    groups = methods(pooled(heard))
    drawn = {
        name: curve(group, metric, judge, name)
        for name, group in (groups | _through_alpha(groups)).items()
        if len({r.recipe.setting for r in group}) > 1 and (names is None or name in names)
    }
    of_clip = {clip: [r for r in heard if r.recipe.pictures.clip == clip] for clip in clips(heard)}
    by_clip = {clip: methods(pooled(some)) for clip, some in of_clip.items()}
    for name in drawn if by_clip else ():
        own = {clip: curve(groups[name], metric, judge, name) for clip, groups in by_clip.items()}
        drawn[name] = replace(drawn[name], clips=own)
    return drawn


def _through_alpha(groups: Mapping[str, list[Record]]) -> dict[str, list[Any]]:
    """The curve of SA-ICM that its paper draws, through its alphas, where they all have one lambda, the same."""
    some = [r for name, group in groups.items() if name.startswith("sa-icm-") for r in group]
    if len({r.recipe.setting for r in some}) != 1:
        return {}

    def as_set(r: Record) -> Any:
        recipe = SimpleNamespace(setting=r.recipe.loss.alpha, codec=r.recipe.codec, seed=r.recipe.seed)
        return SimpleNamespace(recipe=recipe, result=r.result, bootstrap=r.bootstrap)

    return {"sa-icm": list(map(as_set, some))}


def panel(
    records: Sequence[Record], metric: str, judge: str | None = None, names: Sequence[str] | None = None
) -> tuple[str, dict[str, Curve], float | None]:
    """What `plots.rate_accuracy_panels` draws: the axis's label, the :func:`curves`, and, where a detector measured it, the value
    of the uncompressed pictures."""
    unit = f" [{UNITS[metric]}]" if UNITS.get(metric) else ""
    label = f"{NAMES[metric]} of {judge}" if judge else NAMES[metric] + unit
    clean = [r.result for r in methods(pooled(records)).get("png", [])]
    top = clean[0].get(metric, {}).get(judge) if clean and judge else None
    return label, curves(records, metric, judge, names), top


def clips(records: Sequence[Record]) -> list[str]:
    """The videos that records measure; [] for pictures."""
    return sorted({r.recipe.pictures.clip for r in records if isinstance(r.recipe.pictures, Clip)})


def pooled(records: Sequence[Record]) -> list[Record]:
    """The records of videos as if all clips were one: what differs in nothing but its clip becomes one record of means.

    In each replicate the clips are drawn anew, the same draw for every method, and each brings its own replicate, in which its
    frames were drawn anew. Records of pictures stay as they are. A ValueError says that some runs were made on fewer clips.
    """
    names = clips(records)
    if not names:
        return list(records)
    runs: dict[Any, list[Record]] = {}
    for record in records:
        recipe = record.recipe
        runs.setdefault(replace(recipe, pictures=replace(recipe.pictures, clip="all")), []).append(record)
    together = []
    for recipe, run in runs.items():
        run = sorted(run, key=lambda r: r.recipe.pictures.clip)
        if [r.recipe.pictures.clip for r in run] != names:
            raise ValueError(f"a run of {recipe.codec.codec} was made on {len(run)} clips, others on {len(names)}")
        metrics = [r.bootstrap | {"bpp": r.result["bpp"]} for r in run]
        shared = set.intersection(*map(set, metrics))
        metrics = [{k: v for k, v in own.items() if k in shared} for own in metrics]
        result = {k: _mean([r.result[k] for r in run]) for k in metrics[0]}
        together.append(Record(recipe, result, _drawn(metrics), {}))
    return together


def _mean(values: list[Any]) -> Any:
    """Of numbers, or of dictionaries by detector, of which all clips have the same."""
    if isinstance(values[0], dict):
        return {k: _mean([v[k] for v in values]) for k in values[0]}
    return float(np.mean(values))


def _drawn(values: list[Any]) -> Any:
    """Means over the clips that each replicate draws, of lists of replicates, dictionaries of them, or numbers without."""
    if isinstance(values[0], dict):
        return {k: _drawn([v[k] for v in values]) for k in values[0]}
    draws = resamplings(range(len(values)))  # the same for every method
    own = np.broadcast_to(np.asarray(values).reshape(len(values), -1), (len(values), len(draws)))  # (clips, replicates)
    return np.take_along_axis(own.T, draws, axis=1).mean(1).tolist()


def within(records: Sequence[Record], third: str) -> list[Record]:
    """The records as measured on one third of the images, `low`, `middle` or `high` object cover; [] where that is not known."""
    return [
        replace(r, result=r.result["by_cover"][third], bootstrap=r.bootstrap["by_cover"][third])
        for r in records
        if "by_cover" in r.result
    ]


def measured_alike(data: str, size: int, pictures: Sequence[int]) -> list[list[Record]]:
    """What the book has measured of codecs on just these pictures, ids in order: the records of each main study that are there."""
    groups = []
    for chapter in map(chapters.named, chapters.NAMES):
        for study in chapter.studies():
            if study.data == data and study.role == "main":
                wanted = [r for r in study.recipes() if isinstance(r.measured, Accuracy) and r.kind != "refined"]
                measured = map(results.read, (r for r in wanted if r.pictures.size in (0, size) and r.path.exists()))
                groups.append([r for r in measured if r.result["per_image"]["id"] == list(pictures)])
    return groups


def rivals(mine: Curve, groups: Sequence[Sequence[Record]], metric: str, judge: str) -> dict[str, Interval]:
    """BD-rate [%] of a codec's curve against every method of :func:`measured_alike`, of the first group that has it."""
    drawn: dict[str, Curve] = {}
    for group in groups:
        drawn = curves(group, metric, judge) | drawn
    return {name: bd_rate(anchor, mine) for name, anchor in drawn.items()}
