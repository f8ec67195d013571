"""What chapters show of the ledger: claim cards, tables of Bjontegaard deltas, curves, decoded pictures, detections.

A page opens its chapter once, and never looks into a recipe:

    chapter = report.open("object_region_mse", preset, rerun=rerun, device=device)
    display(chapter.in_short(), chapter.cards(), chapter.cost("{measured:.1f} hours of measuring"))
    main = chapter.main[0]  # a Part: a study with its records and its role; f"{main}" is "scenes: 200 evaluation pictures"
    chapter.setup("data images lmbdas seeds", column="{data}"); chapter.verdicts(); chapter.provenance()

Tables are long frames that pandas turns round: :func:`deltas` compares methods and :func:`runs` lists records, a row each, over
parts, metrics and detectors; :func:`table` spreads one of their columns over rows and columns.

    report.table(report.deltas(chapter.main, [("mse", "task")], ["box_ap"]), rows="what", columns="where")
    report.panels(main, ["box_ap", "agreement"], methods, f"{main}, judged by the teacher")

Records are chosen by :func:`select` (`kind="refined"`, `method="task"`, `lmbda=0.002`, ...), of the names that :func:`facts` lists.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown
from matplotlib.figure import Figure
from torch import nn

from icm_helpers import bd, chapters, evaluate, plots, preflight, run, train
from icm_helpers.bd import Curve
from icm_helpers.codecs import zoo
from icm_helpers.data import datasets
from icm_helpers.data.coco import CocoDataset
from icm_helpers.intervals import Interval, of_pictures
from icm_helpers.ledger import forest, live, queries, results, summary, verdicts
from icm_helpers.ledger.chapter import Chapter as Paper
from icm_helpers.ledger.chapter import Claim
from icm_helpers.ledger.figures import coded, detections, panels, psnr_parts, pulls, with_tuned  # noqa: F401 (pages)
from icm_helpers.ledger.film import play  # noqa: F401 (pages)
from icm_helpers.ledger.queries import facts, select, tuned  # noqa: F401 (pages)
from icm_helpers.ledger.recipe import Recipe
from icm_helpers.ledger.results import Record
from icm_helpers.ledger.slider import compare  # noqa: F401 (pages)
from icm_helpers.objectives import Objective
from icm_helpers.tasks import models

# --- records -------------------------------------------------------------------------------------------------------------


def replicates(record: Record, metric: str, judge: str | None = None) -> np.ndarray:
    """A metric in each bootstrap replicate, (200,): replicate k of all records of a data set has the same draw of pictures."""
    found = record.bootstrap[metric]
    return np.array(found if judge is None else found[judge])


def value(record: Record, metric: str, judge: str | None = None) -> float:
    """What was measured."""
    found = record.result[metric]
    return found if judge is None else found[judge]


def label(method: str) -> str:
    """The name of a method that a reader sees."""
    return plots.METHODS[method][2]


def short(method: str) -> str:
    """The same without what all methods of its kind share: `equal weights`."""
    return label(method).removeprefix("distillation, ")


def measure(metric: str, judge: str | None = None) -> str:
    """The name of a metric that a reader sees, with the detector that took it: `box AP, yolov5n`."""
    return f"{queries.NAMES[metric]}, {judge}" if judge else queries.NAMES[metric]


def keyed(rows: Mapping[Any, Mapping[str, Any]], *names: str) -> pd.DataFrame:
    """Rows by their key as a table; where keys are tuples the index has a level, and a name, for each of their parts."""
    index = pd.MultiIndex.from_tuples(rows, names=names) if len(names) > 1 else pd.Index(list(rows), name=names[0])
    return pd.DataFrame(rows.values(), index)


def begin(preset: str) -> bool:
    """The book's style of figures and tables, for a page that opens no chapter; whether the preset is `smoke`.

    Raises:
        ValueError: no such preset.
    """
    if preset not in ("smoke", "book", "paper"):
        raise ValueError(f"preset must be smoke, book or paper, not {preset!r}")
    plots.use_style()
    pd.set_option("display.max_colwidth", None)  # whole recipes and sources, not their beginnings
    return preset == "smoke"


# --- a chapter -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A study of a chapter and its records."""

    study: Any
    records: list[Record]

    def __str__(self) -> str:
        if hasattr(self.study, "clips"):
            return f"{self.data}, {len(self.study.clips)} clips of {self.study.frames} frames"
        return f"{self.study.name}: {self.study.pictures.images} evaluation pictures"

    @property
    def data(self) -> str:
        """The name of the data set."""
        return self.study.data

    @property
    def teacher(self) -> str:
        """The detector whose features or loss took part in the training, or none."""
        return self.study.settings().get("teacher", "none")

    @property
    def detectors(self) -> tuple[str, ...]:
        """The detectors that judge."""
        return self.study.settings()["detectors"]

    @property
    def finetuned(self) -> tuple[str, ...]:
        """The detectors that also judge after training on what each codec decodes."""
        return self.study.settings().get("finetuned", ())

    @property
    def role(self) -> str:
        """What the study is there for, see `study.ROLES`."""
        return self.study.role

    @property
    def uncompressed(self) -> dict[str, Any]:
        """The result on pictures that no codec touched."""
        return queries.methods(self.records)["png"][0].result

    def select(self, **wanted: Any) -> Part:
        """The part with only some of its records, see :func:`select`."""
        return replace(self, records=select(self.records, **wanted))

    def within(self, third: str) -> Part:
        """The part as measured on a third of the pictures, by object cover; without records where that is not known."""
        return replace(self, records=queries.within(self.records, third))

    def judges(self, metric: str, finetuned: bool = False) -> list[str | None]:
        """Who measured a metric: detectors, [None] for a metric of the picture alone, [] if it was not measured."""
        return queries.judges(self.records, metric, finetuned=finetuned)

    def curves(self, metric: str, judge: str | None = None, methods: Sequence[str] | None = None) -> dict[str, Curve]:
        """Method -> curve, see `queries.curves`."""
        return queries.curves(self.records, metric, judge, methods)

    def at_hand(self, methods: Sequence[str]) -> dict[str, list[Record]]:
        """Records of the trained codecs that need no training now, by method: shipped, or finished in runs/; all where nothing is
        kept."""
        ready: dict[str, list[Record]] = {method: [] for method in methods}
        for record, recipe in ((record, record.recipe) for record in self.records):
            if recipe.kind == "trained" and recipe.method in ready and (not self.study.ledger or run.made(recipe)):
                ready[recipe.method].append(record)
        return {method: found for method, found in ready.items() if found}


def open(name: str, preset: str = "book", *, rerun: bool = False, device: str = "auto") -> Chapter:
    """A chapter's studies with their records, in the book's style of figures and tables; says first what measuring them may cost.

    Raises:
        LedgerError: a record is missing and `rerun` is off.
        ValueError: no such chapter or preset.
        PreflightError: in preset `paper`, something that missing records need is not here.
    """
    plots.use_style()
    pd.set_option("display.max_colwidth", None)  # whole recipes and sources, not their beginnings
    chapter = chapters.named(name)
    studies = chapter.studies(preset)
    if rerun or preset == "paper":
        print(f"what measuring these runs costs here: icm cost {name} --preset {preset}")
        print(*(f"not in this preset: {gap}" for gap in chapter.gaps), sep="\n")
    if rerun and preset == "paper":
        preflight.check([r for study in studies for r in study.recipes() if not r.path.exists()], device)
    return Chapter(chapter, [Part(s, run.records(s, rerun=rerun, device=device)) for s in studies], device)


def ran_at_paper_scale(name: str) -> str:
    """How many runs of a chapter's preset `paper` the ledger has, and from which devices."""
    runs = [recipe for study in chapters.named(name).studies("paper") for recipe in study.recipes()]
    found = [results.read(recipe) for recipe in runs if recipe.path.exists()]
    devices = ", ".join(sorted({record.provenance["device"] for record in found}))
    return f"{len(found)} of its {len(runs)} runs are in the ledger, measured on {devices}" if found else "never run"


@dataclass(frozen=True)
class Chapter:
    """A chapter that was opened: its parts, and what it says of all of them together."""

    said: Paper
    parts: list[Part]
    device: str = "auto"

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What the paper claims."""
        return self.said.claims

    def in_short(self) -> Markdown:
        """What came out, the caveat and the advice."""
        return summary.of(self.said, self.findings)

    def role(self, role: str) -> list[Part]:
        """The parts that are there for something, see `study.ROLES`."""
        return [part for part in self.parts if part.role == role]

    @property
    def main(self) -> list[Part]:
        """The parts that the claims are tested on."""
        return self.role("main")

    def usual(self, part: Part) -> Part:
        """What an ablation or a slower study is compared with: records of the same data, teacher, lambdas and seeds in the main
        part, for an ablation in those that have its learning rate."""
        same = [p for p in self.parts if p.data == part.data and part.teacher in ("none", p.teacher)]
        rate = part.study.training.lr
        roles = ("main", "slower") if part.role == "ablation" else ("main",)
        like = [p for p in same if p.role in roles and (len(roles) == 1 or p.study.training.lr == rate)]
        seeds = part.study.settings()["seeds"]
        records = select([r for p in like for r in p.records], lmbda=part.study.lmbdas, seed=seeds)
        return replace(like[0], records=records)

    def changes(self, part: Part) -> dict[str, tuple[Any, Any]]:
        """The fields in which a part's loss differs from that of the chapter's first: name -> its value, the first one's."""
        loss = part.study.losses[-1][0]
        like = [other for other, _ in self.study.losses if type(other) is type(loss)]
        names = [f.name for f in fields(loss)]
        all_of = [
            {k: (getattr(loss, k), getattr(o, k)) for k in names if getattr(loss, k) != getattr(o, k)} for o in like
        ]
        return min(all_of, key=len, default={})

    def having(self, kind: str) -> list[Part]:
        """The parts with records of a kind, and only these records; see :func:`facts`."""
        return [some for part in self.parts if (some := part.select(kind=kind)).records]

    @cached_property
    def findings(self) -> list[verdicts.Finding]:
        """Every claim, judged."""
        return verdicts.of_studies(self.claims, self._measured)

    @property
    def _measured(self) -> list[tuple[Any, list[Record]]]:
        return [(part.study, part.records) for part in self.parts]

    def cards(self, whole: bool = True) -> Markdown:
        """The claims with their verdicts, and, if `whole`, with every finding."""
        if not whole:
            return Markdown(verdicts.brief(self.claims, self.findings))
        return Markdown(verdicts.cards(self.claims, self.findings, verdicts.before(self.claims, self._measured)))

    def forest(self) -> Figure:
        """The findings as a :func:`forest.plot`."""
        return forest.plot(self.findings)

    def glue(self, **values: Any) -> None:
        """Give a page's text its numbers: `values`, and all of `verdicts.told`, taken as {glue:text}`object-region/1a`."""
        from myst_nb import glue

        for name, value in (verdicts.told(self.claims, self.findings) | values).items():
            glue(name, value, display=False)

    def cost(self, words: str) -> Markdown:
        """A sentence on the hours, `{measured}`, that the records took once their codecs were trained."""
        seconds = {r.recipe: r.provenance.get("seconds", 0) for part in self.parts for r in part.records}
        told = f"{words.format(measured=sum(seconds.values()) / 3600)}, trainings of codecs not counted"
        return Markdown(
            f"*Cost of the records shown:* {told} (`icm cost {self.said.name} --preset book` gives that of all runs)."
        )

    def setup(self, names: str, column: str = "{data}") -> pd.DataFrame:
        """The values of the main studies' fields, a column each, headed by fields in braces, or its `{number}`; without fields that
        none of them has."""
        told = [part.study.settings() | {"number": i} for i, part in enumerate(self.main)]
        had = [name for name in names.split() if any(name in each for each in told)]
        return pd.DataFrame({column.format(**each): {name: each.get(name, "") for name in had} for each in told})

    def verdicts(self, digits: int = 3) -> pd.DataFrame:
        """The table of findings."""
        rows = pd.DataFrame(verdicts.rows(self.claims, self.findings))
        return rows.set_index(["claim", "data"]).round({c: 4 if c[0] == "p" else digits for c in rows}).fillna("")

    def unreproduced(self) -> Markdown:
        """The list of findings that are not *reproduced*."""
        return Markdown(verdicts.unreproduced(self.claims, self.findings))

    def provenance(self, role: str = "") -> pd.DataFrame:
        """On which data, with what and when the records were measured: all, or those of a role."""
        # A record that two studies share counts once.
        parts = [part for part in (self.role(role) if role else self.parts) if part.role != "replaced"]
        once = {r.recipe: r.provenance | {"data": part.data} for part in parts for r in part.records}
        names = "data", "device", "date", "commit"
        rows = [{k: p[k] for k in names} | {"torch": p["packages"]["torch"]} for p in once.values()]
        return pd.DataFrame(rows).value_counts().rename("records").reset_index()

    def at_paper_scale(self) -> Markdown:
        """Whether preset `paper` was ever run, and on what: a sentence from the ledger."""
        told = ran_at_paper_scale(self.study.chapter)
        where = "{doc}`../reference/paper_scale` says how it is rehearsed, and what it lacks of the paper"
        return Markdown(f"Preset `paper`: *{told}*. {where}.")

    def origin(self, doing: str) -> tuple[Markdown, Markdown, pd.DataFrame]:
        """Where all records come from: :func:`at_paper_scale`, :func:`cost`, in hours of `doing` something, :func:`provenance`."""
        return self.at_paper_scale(), self.cost(f"{{measured:.1f}} hours of {doing}"), self.provenance()

    # What the live demonstrations begin with: all of the first study.

    @property
    def study(self) -> Any:
        """The first study."""
        return self.main[0].study

    @property
    def place(self) -> torch.device:
        """Where networks compute."""
        return train.fabric(self.device).device

    def start(self) -> nn.Module:
        """The network that all trainings begin with; where they begin from nothing, the first trained one."""
        first = self.study.recipes()[0]
        return self.codec(first) if self.study.training.start == "none" else run.start(first).to(self.place).eval()

    def teacher(self) -> Any:
        """The frozen detector that takes part in the training."""
        return models.load(self.main[0].teacher).to(self.place)

    def objective(self, loss: str, lmbda: float) -> Objective:
        """A loss as the first study trains with it, at a lambda of its ladder: with its teacher and its scale."""
        recipe = next(r for r in self.study.recipes() if r.loss and r.loss.name == loss)
        return run.objective(replace(recipe, codec=replace(recipe.codec, lmbda=lmbda)), self.place)

    def batch(self, crops: Iterable[tuple]) -> tuple:
        """Training crops as one batch, where networks compute."""
        return train.fabric(self.device).to_device(run.collate(list(crops)))

    def pictures(self, split: str, at_most: int) -> CocoDataset:
        """The first pictures of its `train` or `val` set."""
        pictures = self.study.pictures
        whole = pictures.images if split == "val" else self.study.training.train_images
        return datasets.load(pictures.data, split, size=pictures.size, limit=min(at_most, whole))

    def codec(self, recipe: Recipe) -> nn.Module:
        """A recipe's trained codec, ready to code."""
        return (
            run.trained_codec(recipe, keep=self.study.ledger, device=self.device, progress=False).to(self.place).eval()
        )

    def nearest(self, methods: Sequence[str]) -> dict[str, Recipe]:
        """One available codec of each method, chosen so that their rates are nearest."""
        ready = self.main[0].at_hand(methods)
        return {method: record.recipe for method, record in zip(ready, _nearest([*ready.values()]), strict=True)}

    def same_lambda(self, methods: Sequence[str]) -> dict[str, Recipe]:
        """One available codec of each method, at the lambda that most of them have."""
        rungs: dict[float, dict[str, Recipe]] = {}
        for method, found in self.main[0].at_hand(methods).items():
            for record in found:
                rungs.setdefault(record.recipe.setting, {}).setdefault(method, record.recipe)
        return max(rungs.values(), key=len)

    def train_live(
        self, crops: Any, held: Any, objective: Objective, *, steps: int, seed: int, title: str
    ) -> tuple[nn.Module, list[dict[str, float]]]:
        """The study's codec, trained from random weights for a few steps, and the points of its curve, see `live.fit`."""
        torch.manual_seed(seed)
        fresh = zoo.load(self.study.codec, weights=None)
        schedule = train.Schedule(steps=steps, batch=2, lr=2e-3, warmup=20)
        return live.fit(fresh, crops, held, objective, schedule, seed=seed, device=self.device, title=title)


# --- tables --------------------------------------------------------------------------------------------------------------


Pair = tuple[Any, Any]


def deltas(
    parts: Part | Sequence[Part],
    pairs: Iterable[Pair] | Mapping[str, Pair],
    metrics: Sequence[str] = ("box_ap",),
    *,
    measured: Callable[[Curve, Curve], Interval] = bd.bd_rate,
    beside: Mapping[str, Sequence[Record] | Mapping[str, Any] | Callable[[list[Record]], list[Record]]] | None = None,
    by: Sequence[str | None] | None = None,
    finetuned: bool = False,
) -> pd.DataFrame:
    """Methods against anchors, a row for each part, metric, judge and pair of which there are both curves.

    Args:
        pairs: (anchor, method); where given by name, `what` is that name, else "method against anchor". Instead of a method's name
            ("records", "task") is the curve of that method in the records `beside` of that name, ("", "task") in the part's own.
        measured: `bd.bd_rate` in percent, or `bd.bd_metric`.
        beside: other records, or what makes them of a part's own, such as :func:`tuned`, or :func:`select`'s words as a dictionary.
        by: judges; all as they are where None, with `finetuned` also those that were trained further.

    Returns:
        data, judge, where (data and judge), metric, measure (metric and judge), anchor, method, what, against and name (how
        readers call anchor and method), and delta (an Interval).
    """
    named = pairs if isinstance(pairs, Mapping) else {f"{m} against {a}": (a, m) for a, m in pairs}
    rows = []
    for part in [parts] if isinstance(parts, Part) else parts:
        others = {k: found(part.records) if callable(found) else found for k, found in (beside or {}).items()}
        others = {k: select(part.records, **v) if isinstance(v, Mapping) else v for k, v in others.items()}
        for metric, judge in ((m, j) for m in metrics for j in part.judges(m, finetuned) if by is None or j in by):
            drawn = {k: queries.curves(v, metric, judge) for k, v in ({"": part.records} | others).items()}
            of = {"data": part.data, "judge": judge, "where": f"{part.data}, {judge}", "metric": metric}
            for what, pair in named.items():
                (one, anchor), (other, method) = (("", name) if isinstance(name, str) else name for name in pair)
                if anchor in drawn[one] and method in drawn[other]:
                    row = {"measure": measure(metric, judge), "anchor": anchor, "method": method, "what": what}
                    row |= {"against": label(anchor), "name": label(method)}
                    rows.append(of | row | {"delta": measured(drawn[one][anchor], drawn[other][method])})
    names = "data judge where metric measure anchor method what against name delta"
    return pd.DataFrame(rows, columns=None if rows else names.split())


def table(
    frame: pd.DataFrame,
    rows: str | list[str],
    columns: str,
    values: str = "delta",
    *,
    told: Callable[[Any], Any] = str,
    empty: Any = "",
) -> pd.DataFrame:
    """One column of a long frame spread out, in the order in which labels appear; a list of `rows` keeps their names.

    Args:
        told: how a value is written.
        empty: what stands where there is none.
    """
    if frame.empty:
        return pd.DataFrame()
    names = [rows] if isinstance(rows, str) else rows
    wide = frame.pivot_table(index=names, columns=columns, values=values, aggfunc="first", sort=False)
    wide = wide.apply(lambda column: column.map(told, na_action="ignore")).astype(object).fillna(empty)
    wide.columns.name = None
    return wide.rename_axis(None) if isinstance(rows, str) else wide


def tested(delta: Interval) -> str:
    """An interval, or a dash where curves overlap in too few replicates, or not in every training, for a verdict."""
    return str(delta) if delta.testable else "-"


def gains(part: Part, pairs: Mapping[str, Pair]) -> pd.DataFrame:
    """Pairs compared by box AP, a row each: BD-rate, and points of AP at equal rate, by every detector; :func:`starred`."""
    kinds = (("BD-rate [%]", bd.bd_rate, decimal), ("AP points", bd.bd_metric, points))
    told = [
        table(deltas(part, pairs, measured=measured), "what", "judge", told=lambda d, by=by: starred(d, by))
        for _, measured, by in kinds
    ]
    return pd.concat([t.add_suffix(f", {name}") for t, (name, *_) in zip(told, kinds, strict=True)], axis=1)


def _nearest(groups: Sequence[Sequence[Record]]) -> list[Record]:
    """A record of each group, of rates as near together as there are: the least of all, and of the others the next above it."""
    rate = lambda record: record.result["bpp"]  # noqa: E731
    lows = sorted({rate(record) for group in groups for record in group})
    above = ([min((r for r in group if rate(r) >= low), key=rate, default=None) for group in groups] for low in lows)
    return min((some for some in above if None not in some), key=lambda some: np.ptp([*map(rate, some)]))


def decimal(delta: Interval, scale: float = 1.0) -> str:
    """The same to one decimal, multiplied by a number."""
    return delta.told(1, scale) if delta.testable else "overlap too little"


def points(delta: Interval) -> str:
    """The same in hundredths: points of AP."""
    return decimal(delta, 100.0)


def starred(delta: Interval, told: Callable[[Interval], str] = str) -> str:
    """What `told` writes, with a star where it rests on one training."""
    return told(delta) + " *" * (delta.trainings == 1)


def runs(parts: Part | Sequence[Part], metrics: Sequence[str] = (), judge: str | None = None) -> pd.DataFrame:
    """A row for each record: its :func:`facts`, bpp, and metrics, under the names that a reader sees where they have one.

    Args:
        judge: whose value is told of metrics that detectors take; a row for each of them where None.
    """
    rows = []
    for part in [parts] if isinstance(parts, Part) else parts:
        for record in part.records:
            told = {name: record.result[name] for name in ("bpp", *metrics) if name in record.result}
            by = {j for v in told.values() if isinstance(v, dict) for j in v if judge in (None, j)}
            for j in sorted(by) or [judge]:
                seen = {queries.NAMES.get(k, k): v.get(j) if isinstance(v, dict) else v for k, v in told.items()}
                of = facts(record)
                rows.append(of | {"name": label(of["method"]), "judge": j, "where": f"{part.data}, {j}"} | seen)
    return pd.DataFrame(rows)


def difference(part: Part, anchor: str, method: str, metric: str, judge: str | None = None) -> Interval:
    """The difference between the only records of a method and of an anchor, paired, whatever their rates."""
    one, other = (select(part.records, method=name)[0] for name in (anchor, method))
    drawn = replicates(other, metric, judge) - replicates(one, metric, judge)
    return of_pictures(value(other, metric, judge) - value(one, metric, judge), drawn)


def by_cover(parts: Sequence[Part], anchor: str, method: str) -> pd.DataFrame:
    """BD-rate by box AP on thirds of the pictures, from those that objects cover least; empty where there are too few pictures."""
    rows = []
    for part in parts:
        for judge, third in itertools.product(part.judges("box_ap"), evaluate.THIRDS):
            if members := queries.within(part.records, third):
                drawn = queries.curves(members, "box_ap", judge)
                row = {"data": part.data, "judge": judge, "third": third}
                row["cover"] = 100 * value(members[0], "object_share")
                rows.append(row | vars(bd.bd_rate(drawn[anchor], drawn[method])))
    return pd.DataFrame(rows).set_index(list(row)[:3]) if rows else pd.DataFrame()


def by_size(parts: Sequence[Part]) -> pd.DataFrame:
    """AP of every detector on uncompressed pictures, by COCO's rules and sizes of objects."""
    rows = {}
    for part in parts:
        for task, judge in ((t, j) for t in ("box", "mask") for j in part.uncompressed.get(f"{t}_ap", {})):
            rows[part.data, judge, task] = row = {"pictures": part.uncompressed["images"]}
            for name in ("ap", "ap50", "ap_small", "ap_medium", "ap_large"):
                row[name] = part.uncompressed.get(f"{task}_{name}", {}).get(judge)
    index = pd.MultiIndex.from_tuples(rows, names=["data", "judge", "task"])
    return pd.DataFrame(rows.values(), index).round(3).fillna("")


def seed_spread(parts: Sequence[Part], methods: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """The largest range over the seeds of one lambda, of rate and of metrics by the teacher, or where there is none by the first
    detector, a row for each method that has several seeds, by data and judge; of what was trained again, the first as in curves."""
    spread = {}
    for part in parts:
        judge = part.teacher if part.teacher in part.detectors else part.detectors[0]
        listed = runs(part.select(method=tuple(methods)), metrics, judge)
        listed = listed.groupby(["method", "lmbda", "seed"], as_index=False).first()
        rungs = listed.groupby(["method", "lmbda"])[[c for c in ("bpp", *map(measure, metrics)) if c in listed]]
        ranges = rungs.agg(lambda v: v.max() - v.min() if len(v) > 1 else np.nan).groupby("method").max()
        ranges.insert(0, "seeds", listed.groupby("method")["seed"].nunique())
        spread[part.data, judge] = ranges.reindex([m for m in methods if m in ranges.index])
    return pd.concat(spread, names=["data", "judge"]).dropna(subset="bpp").round(4)


def ablations(chapter: Chapter, method: str, metrics: Sequence[str]) -> pd.DataFrame:
    """What each change of an option does to a method: rates before and after, and BD-rates by the teacher, by change and learning
    rate; empty where there is no ablation."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for part in chapter.role("ablation"):
        for option, (now, before) in chapter.changes(part).items():
            usual = chapter.usual(part).select(method=method)
            row = rows[f"{option}: {now} instead of {before}", f"{part.study.training.lr:g}"] = {}
            for name, some in (("as it was", usual), ("changed", part)):
                row[f"bpp, {name}"] = ", ".join(f"{bpp:.3f}" for bpp in runs(some)["bpp"])
            pair, beside = (("usual", method), method), {"usual": usual.records}
            frame = deltas(part, [pair], metrics, beside=beside, by=[part.teacher])
            row |= {f"{measure(k)}, BD-rate [%]": str(v) for k, v in zip(frame["metric"], frame["delta"], strict=True)}
    return keyed(rows, "change", "lr").sort_index() if rows else pd.DataFrame()


def gaps(part: Part, method: str, anchors: Sequence[str], metrics: Sequence[str], judge: str) -> pd.DataFrame:
    """A method minus anchors in points of AP, a column for each rate of the method; empty where an anchor was not measured."""
    rows = {}
    for metric in (m for m in metrics if judge in part.judges(m)):
        drawn = part.curves(metric, judge)
        own = drawn[method]
        for other in (drawn[anchor] for anchor in anchors if anchor in drawn):
            there = (own.bpp >= other.bpp[0]) & (own.bpp <= other.bpp[-1])
            gap = 100 * (own.metric - np.interp(np.log(own.bpp), np.log(other.bpp), other.metric))
            row = {f"{b:.3f} bpp": f"{g:+.1f}" if ok else "" for b, g, ok in zip(own.bpp, gap, there, strict=True)}
            rows[f"{measure(metric)}, minus {short(other.name)}"] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def tried(parts: Sequence[Part], by: Sequence[str] | None = None) -> pd.DataFrame:
    """What codecs measured that were trained for a few steps, only to show that they train, code and are judged."""
    rows = []
    for record in (r for part in parts for r in part.records):
        told, result = facts(record), record.result
        row = {"loss": told["loss"], "lmbda": told["lmbda"], "steps": told["steps"]}
        row |= {"bpp, all bytes": result["bpp"], "bpp, by likelihoods": result["bpp_likelihood"]}
        judged = {f"box AP, {j}": v for j, v in result["box_ap"].items() if by is None or j in by}
        rows.append(row | {"PSNR [dB]": result["psnr"]} | judged)
    return pd.DataFrame(rows).set_index("loss").round(3)
