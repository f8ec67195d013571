"""All methods in one table: what each needs, which model taught it, which to choose, and your own records beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown
from pytorch_msssim import ms_ssim
from torch import Tensor

from icm_helpers import chapters, complexity, evaluate, files, plots, run
from icm_helpers.codecs import zoo
from icm_helpers.intervals import Interval
from icm_helpers.ledger import queries, report, verdicts
from icm_helpers.ledger.chapter import Advice
from icm_helpers.ledger.recipe import Accuracy
from icm_helpers.ledger.results import Record
from icm_helpers.objectives import SAICM, ObjectRegion


def methods(part: report.Part, *kinds: str) -> list[str]:
    """The methods of a part's curves, trained ones first, or only those of some `kinds`; MSE begins, uncompressed is left out."""
    found = {r.recipe.method: r.recipe.kind for r in part.records if r.recipe.method != "png"}
    named = [name for name, kind in found.items() if kind in (kinds or ("trained", "classical", "given"))]
    return sorted(named, key=lambda name: (found[name] == "classical", name != "mse"))


def marked(delta: Interval) -> str:
    """A change of the rate with the symbol of its verdict, for a claim that it lies below zero."""
    word = verdicts.earned(delta, -1, "% rate")
    told = verdicts.symbol(word).partition(" ")[0]
    return told if word == "not testable" else f"{told} {delta.told(0)}"


def strangers(part: report.Part, metric: str = "box_ap") -> pd.DataFrame:
    """BD-rates against MSE by every model as it is, a row for each method that a model taught; its teacher's are in bold."""
    taught = {
        r.recipe.method: files.unmarked(r.recipe.loss.teacher)[0]
        for r in part.records
        if r.recipe.kind == "trained" and getattr(r.recipe.loss, "teacher", "none") != "none"
    }
    frame = report.deltas(part, [("mse", method) for method in taught], [metric])
    own = [taught[method] == judge for method, judge in zip(frame["method"], frame["judge"], strict=True)]
    told = [f"<b>{marked(d)}</b>" if mine else marked(d) for d, mine in zip(frame["delta"], own, strict=True)]
    return report.table(frame.assign(delta=told), "name", "judge")


def asks(part: report.Part) -> pd.DataFrame:
    """What each method asks of its user: of each training picture, of the encoder, of the decoder; how often it was trained."""
    rows = {}
    for method in methods(part, "trained", "classical"):
        some = [r.recipe for r in part.records if r.recipe.method == method]
        loss, roi = some[0].loss, files.unmarked(getattr(some[0].codec, "roi", "none"))[0]
        teacher = files.unmarked(getattr(loss, "teacher", "none"))[0]
        rows[report.label(method)] = {
            "of training pictures": _labels(loss),
            "a teacher": "" if teacher == "none" else teacher,
            "at the encoder": {"none": "", "truth": "true masks"}.get(roi, f"runs {roi}"),
            "at the decoder": "its own network" if loss else "",
            "trainings": len({r.seed for r in some}) if loss else "",
        }
    return pd.DataFrame(rows).T


def _labels(loss: Any) -> str:
    if loss is None:
        return "none: no training"
    if isinstance(loss, SAICM):
        return "masks by Segment Anything"
    if isinstance(loss, ObjectRegion) or loss.tells:
        return "object masks"
    return "objects" if loss.needs_objects else "no labels"


def spends(part: report.Part) -> pd.DataFrame:
    """What a method's codec costs: the steps of one training, its weights, and the time for a crop of 256 x 256 pixels.

    Time is processor time on one thread, of classical codecs at their middle setting, without the detector that tells an encoder
    where to look; with it, encoding took so many times as long when records were measured.
    """
    rows, known = {}, complexity.read()
    for method in methods(part, "trained", "classical"):
        codec = next(r.recipe.codec for r in part.records if r.recipe.method == method)
        base = codec.codec.removesuffix("-roi").removesuffix("-lowpass") if not hasattr(codec, "loss") else codec.codec
        cost = next((row for key, row in known.items() if row["codec"] == base and _middle(key, row)), None)
        training = getattr(codec, "training", None)
        same = [r.result for r in part.records if r.recipe.method == method and "encoder_time" in r.result]
        times = f"{np.mean([result['encoder_time'] for result in same]):.1f}" if same else ""
        rows[report.label(method)] = {
            "training": f"{training.steps} steps of {training.batch} crops" if training else "",
            "weights": f"{cost['parameters']:,}" if cost and "parameters" in cost else "",
            **{f"{side} [ms]": f"{1000 * cost['seconds'][side]:.0f}" if cost else "" for side in ("encode", "decode")},
            "encoder with its detector [times]": times,
        }
    return pd.DataFrame(rows).T


def _middle(key: str, row: complexity.Row) -> bool:
    return "parameters" in row or key in complexity.MIDDLE


def textures(preset: str) -> pd.DataFrame:
    """How well a probe reads unneeded textures from decoded pictures, at each method's lowest and highest rate: the records
    of the chapter on SA-ICM."""
    rows = {}
    for part in report.open("sa_icm", preset).having("probed") if preset == "book" else ():
        for name, some in queries.methods(part.records).items():
            some = sorted((r for r in some if r.recipe.seed == 0), key=lambda r: r.result["bpp"])
            told = {"lowest rate": some[0], "highest rate": some[-1]}
            rows["uncompressed" if name == "probed-png" else report.label(name)] = {
                where: f"{r.result['texture_auc']:.2f} at {r.result['bpp']:.2f} bpp" for where, r in told.items()
            }
    return pd.DataFrame(rows).T


# --- decoded pictures ----------------------------------------------------------------------------------------------------


def seen(
    chapter: report.Chapter, standards: Sequence[str], count: int, shown: int
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """Some evaluation pictures as decoded by the codecs at hand, one of each method, at the nearest rates.

    Args:
        standards: methods of classical codecs.
        count: how many pictures the means are of.
        shown: which of them to return, by method and rate.

    Returns:
        rate, PSNR and MS-SSIM of each method, means over the pictures; and the decoded pictures (3, H, W).
    """
    part = chapter.main[0]
    told = {r.method for r in part.study.recipes() if zoo.find(r.codec.codec)[0].roi}
    chosen = chapter.nearest([m for m in methods(part, "trained") if m not in told])
    pairs = [(r.recipe, r) for r in part.records if r.recipe.kind != "given"] if standards else []
    rates = [r.result["bpp"] for recipe, r in pairs if recipe in chosen.values()]
    for name in standards:
        own = [(recipe, r.result["bpp"]) for recipe, r in pairs if recipe.method == name]
        if own:
            chosen[name] = min(own, key=lambda pair: abs(pair[1] - np.mean(rates)))[0]
    examples = chapter.pictures("val", count)
    images = [examples[i].image for i in range(len(examples))]
    rows, pictures = {}, {"original": images[shown]}
    for name, recipe in chosen.items():
        codec = run.start(recipe) if recipe.kind == "classical" else chapter.codec(recipe)
        decoded = [report.coded(codec, x) for x in images]
        values = [
            (bpp, evaluate.psnr((x - x_hat).square().mean().item()), _ms_ssim(x, x_hat))
            for x, (x_hat, bpp) in zip(images, decoded, strict=True)
        ]
        rows[report.label(name)] = dict(zip(("bpp", "PSNR [dB]", "MS-SSIM"), np.mean(values, axis=0), strict=True))
        pictures[f"{report.label(name)}, {decoded[shown][1]:.2f} bpp"] = decoded[shown][0]
    return pd.DataFrame(rows).T.round({"bpp": 3, "PSNR [dB]": 1, "MS-SSIM": 3}), pictures


def _ms_ssim(x: Tensor, x_hat: Tensor) -> float:
    """MS-SSIM of pictures (3, H, W) in [0, 1]; NaN below 161 pixels, which are too few for its five scales."""
    return ms_ssim(x[None], x_hat[None], data_range=1.0).item() if min(x.shape[1:]) > 160 else float("nan")


# --- advice --------------------------------------------------------------------------------------------------------------


def regions(part: report.Part) -> list[tuple[str, str]]:
    """Each standard codec with the same codec told a region: by its encoder's detector, by true masks, or through a low pass."""
    names = methods(part, "classical")
    return [(n, n + end) for n in names for end in ("-roi", "-roi-truth", "-lowpass") if n + end in names]


def against_mse(part: report.Part, metrics: Sequence[str], **how: Any) -> pd.DataFrame:
    """Every method of a part against MSE, as :func:`report.deltas` has it."""
    return report.deltas(part, [("mse", name) for name in methods(part)[1:]], metrics, **how)


def advised(lines: Sequence[Advice]) -> Markdown:
    """Each line's question with the text that the verdict of its claim chooses, and that verdict."""
    found = verdicts.scoreboard({line.claim for line in lines})
    of = {f.claim.id: [g for g in some if g.claim == f.claim] for some in found.values() for f in some}
    return Markdown("\n".join(f"- {told(line, of.get(line.claim, []))}" for line in lines))


def told(line: Advice, findings: Sequence[verdicts.Finding]) -> str:
    """One line of :func:`advised`, from the findings of its claim."""
    if not findings:
        return f"**{line.question}** Not measured yet (claim {line.claim})."
    text = line.texts[verdicts.leaning([f.verdict for f in findings])]
    name = next(name for name in chapters.NAMES for c in chapters.named(name).claims if c.id == line.claim)
    word = verdicts.symbol(verdicts.of_claim(findings[0].claim, findings))
    card = f'<a href="{name}_appendix.html#every-finding">claim {line.claim}</a>'
    return f"**{line.question}** {text} ({card}: {word})"


# --- records of your own ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Own:
    """What `icm judge --out name.json` wrote: somebody's own codec, on one data set."""

    name: str
    ids: list[int | str]
    records: list[dict[str, Any]]


def read(path: Path | str) -> Own:
    """A file of `icm judge`, checked as a record that others may look at.

    Raises:
        ValueError: it is none; a number is not finite; the rate is not that of the bytes; or its pictures differ from rate to rate.
    """
    path = Path(path)
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        ids = records[0]["asked"]["ids"]
        for record in records:
            result, spent = record["result"], record["result"]["per_image"]
            bpp = 8 * sum(spent["bytes"]) / sum(spent["pixels"])
            if not np.isclose(bpp, result["bpp"], rtol=1e-4):
                raise ValueError(f"it states a rate of {result['bpp']} bpp, but its bytes make {bpp:.4f}")
            if record["asked"]["ids"] != ids or spent["id"] != ids:
                raise ValueError("its rates were not measured on the same pictures: judge all of them in one call")
            for name, values in record["bootstrap"].items():
                _require_numbers(name, values)
                _require_numbers(name, {"": result[name]})
    except (OSError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        told = "`icm judge --out FILE` writes one"
        raise ValueError(f"{path} is not a record of a codec ({type(error).__name__}: {error}); {told}") from error
    return Own(path.stem, ids, records)


def _require_numbers(name: str, values: Any) -> None:
    for part in values.values() if isinstance(values, Mapping) else (values,):
        if isinstance(part, Mapping):
            _require_numbers(name, part)
        elif not np.isfinite(np.asarray(part, dtype=float)).all():
            raise ValueError(f"{name} has values that are not finite")


def sent_in() -> list[Path]:
    """The files that readers sent in, in data/leaderboard."""
    return sorted((files.SHIPPED / "leaderboard").glob("*.json"))


def with_own(chapter: report.Chapter, paths: Sequence[Path | str]) -> report.Chapter:
    """A chapter with your own records in the parts that measured the same pictures; each has its file's name as its method.

    Raises:
        ValueError: as :func:`read`; two files have one name, or that of a method of the book; or no part has these pictures.
    """
    parts, known = list(chapter.parts), {m for part in chapter.parts for m in methods(part)}
    for path, look in zip(paths, cycle(plots.LOOKS), strict=False):
        own = read(path)
        if own.name in known:
            raise ValueError(f"{path}: a method is called {own.name!r} already: rename the file")
        alike = [i for i, part in enumerate(parts) if part.records[0].result["per_image"]["id"] == own.ids]
        if not alike:
            sizes = ", ".join(f"{part}" for part in parts)
            raise ValueError(f"{path} was measured on {len(own.ids)} other pictures than those of this page: {sizes}")
        known.add(own.name)
        plots.METHODS[own.name] = (*look, own.name)
        for i in alike:
            parts[i] = replace(parts[i], records=[*parts[i].records, *as_records(own, parts[i].study.pictures)])
    return replace(chapter, parts=parts)


def as_records(own: Own, pictures: Any) -> list[Record]:
    """Its rates as records, with a recipe that says only what a curve needs."""
    said = dict(method=own.name, kind="given", codec=None, loss=None, seed=0, pictures=pictures, measured=Accuracy(()))
    return [
        Record(SimpleNamespace(setting=k, **said), each["result"], each["bootstrap"], {})
        for k, each in enumerate(own.records)
    ]


# --- the leaderboard -----------------------------------------------------------------------------------------------------


def ranking(part: report.Part, anchor: str = "hevc", metric: str = "box_ap") -> pd.DataFrame:
    """Every method by its BD-rate against an anchor, a column a judge, the best by the first judge first."""
    frame = report.deltas(part, [(anchor, method) for method in methods(part) if method != anchor], [metric])
    if frame.empty:
        return frame
    first = frame[frame["judge"] == frame["judge"].iloc[0]]
    order = first.assign(value=[d.value for d in first["delta"]]).sort_values("value")["name"]
    return (
        report.table(frame, "name", "judge", told=marked)
        .reindex(order)
        .rename_axis(f"BD-rate [%] against {report.label(anchor)}")
    )


def points(part: report.Part, metric: str = "box_ap") -> pd.DataFrame:
    """Every point of every curve, once: method, what decides its rate, seed, bpp, PSNR, and AP of each judge as it is."""
    rows, names, setting = [], queries.judges(part.records, metric, finetuned=False), "λ, quality or QP"
    for record in part.records:
        recipe, result = record.recipe, record.result
        if recipe.kind not in ("trained", "classical", "given") or not {*names} & {*result.get(metric, {})}:
            continue
        row = {"method": report.label(recipe.method), setting: f"{recipe.setting:g}", "seed": recipe.seed}
        row |= {"bpp": result["bpp"], "PSNR [dB]": result["psnr"]}
        rows.append(row | {judge: result[metric].get(judge) for judge in names})
    once = pd.DataFrame(rows).groupby(["method", setting, "seed"], as_index=False, sort=False).first()
    return once.set_index("method").sort_values("bpp").round(3).fillna("")
