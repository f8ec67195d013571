"""Anybody's codec, measured as the book measures its own, and compared with the book on the same pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from icm_helpers import bd, evaluate, files, plots, run, train
from icm_helpers.codecs import networks, zoo
from icm_helpers.data import coco, datasets, own
from icm_helpers.intervals import Interval, of_pictures
from icm_helpers.ledger import queries
from icm_helpers.ledger.recipe import Accuracy, Classical, Given, Pictures, Recipe, flat
from icm_helpers.options import Coding
from icm_helpers.tasks import models


def judge(
    codecs: Sequence[Coding],
    pictures: Pictures,
    detectors: Sequence[str],
    out: Path | None,
    device: str,
    pairs: Sequence[str] = (),
) -> None:
    """Print rate, PSNR and AP of a codec at its rates, in turn, and from two rates on its BD-rates against the codecs of the book.

    Detectors are as in :func:`named`. All that is measured goes to `out`, a JSON file; what it holds already is not measured again.
    `pairs` name categories as the first detector does, as in `own.mapped`. A ValueError says that a detector cannot judge this, or
    that `out` is another file.
    """
    if out:
        files.claim(out)
    data, judges = pictures.data, Accuracy(tuple(map(named, detectors)))
    dataset = datasets.load(data, "val", size=pictures.size, limit=pictures.images)
    if pairs or datasets.DATASETS[data].own:
        data = own.mapped(data, dataset, pairs, detectors[0], models.load(judges.detectors[0]).categories)
        pictures = replace(pictures, data=data)
        dataset = datasets.load(data, "val", size=pictures.size, limit=pictures.images)
    for name, full in zip(detectors, judges.detectors, strict=True):
        coco.require_categories(dataset, models.load(full).categories, name)
    pictures, kept, records, fresh = replace(pictures, images=len(dataset)), _kept(out), [], False
    same = {"pictures": files.fingerprint(dataset.annotations), "ids": dataset.ids}
    for k, codec in enumerate(codecs):
        model = codec.coder()
        recipe = Recipe("mine", pictures, _part(codec, model), judges)
        asked = json.loads(json.dumps(flat(recipe))) | same
        if others := {_sized(record["asked"]["codec"]) for record in kept} - {_sized(codec.codec)}:
            raise ValueError(f"{out} holds rates of {', '.join(sorted(others))}: give {codec.codec} a file of its own")
        record = next((record for record in kept if record["asked"] == asked), None)
        if record is None:
            result, bootstrap = run.measured(recipe, model, device=device)
            record, fresh = {"asked": asked, "result": result, "bootstrap": bootstrap}, True
            if out:
                with files.atomically(out) as temporary:  # with what another process has written meanwhile
                    temporary.write_text(json.dumps([*_kept(out), record]), encoding="utf-8")
        records.append(_rate(k, record))
        told = " ".join(str(word) for word in (codec.codec, codec.weights, codec.quality) if word is not None)
        print(
            f"{told}: {record['result']['bpp']:.4f} bpp, {record['result']['psnr']:.2f} dB, {len(dataset)} pictures of {data}"
        )
        for metric, name in _accuracies(records[-1:]):
            print(f"  {_called(metric, name)} {_told(records[-1], metric, name)}", flush=True)
    finding = (
        pair for pair in zip(detectors, judges.detectors, strict=True) if pair[0] not in models.names("semantic")
    )
    for name, full in finding if fresh else ():
        found = run.clean(pictures, full, train.fabric(device).device)
        summary, _ = evaluate.average_precision(dataset.ground_truth(), found)
        told = f"{summary['ap']:.3f}" if summary else f"is not defined: {dataset.emptiness}"
        print(f"uncompressed: box AP of {name} {told}")
    print("\n".join(_compared(records, pictures, dataset.ids)))


def _compared(records: list[Any], pictures: Pictures, ids: Sequence[int]) -> Iterator[str]:
    if len(records) == 1:
        yield "give two rates or more, such as several --weights, for a BD-rate against the codecs of the book"
        return
    if len(records) < 4:
        yield f"between {len(records)} rates a curve is cut short, and BD-rates come out too high: give four or more"
    alike = queries.measured_alike(pictures.data, pictures.size, ids)
    for metric, name in _accuracies(records):
        known = [] if "=" in (name or "") else [[r for r in group if metric in r.bootstrap] for group in alike]
        found = queries.rivals(bd.curve(records, metric, name), known, metric, name)
        yield f"BD-rate [%] by {_called(metric, name)}, below zero where yours needs fewer bits:"
        for rival, change in found.items():
            yield f"  {rival:20} {_shown(change)}"
        if not found:
            yield f"  the book measured nothing on these {len(ids)} pictures with this detector{files.NO_CLONE}"


def compare(paths: Sequence[Path], out: Path | None) -> None:
    """Print what files of :func:`judge` hold, rate by rate, and each one's BD-rates [%] against the first by every measure that all
    have; draw their curves into `out`. A ValueError says that a file is none, or was measured on other pictures than the first."""
    names = [path.stem for path in paths]
    if len({*names}) < len(names):
        raise ValueError(f"{', '.join(names)}: two files have one name, which names their curves: rename one")
    kept = {path: _kept(path) for path in paths}
    for path, records in kept.items():
        if not records:
            raise ValueError(f"{path} is missing, or empty: `icm judge --out {path}` writes it")
        if len(_pictures(records)) > 1:
            raise ValueError(f"{path} holds rates on different pictures: judge each set into a file of its own")
        if _pictures(records) != _pictures(kept[paths[0]][:1]):
            raise ValueError(f"{path} holds other pictures than {paths[0]}: judge all on the same ones")
    groups = {path.stem: [_rate(k, record) for k, record in enumerate(records)] for path, records in kept.items()}
    measures = _accuracies([record for group in groups.values() for record in group])
    table = {
        (name, f"{record.result['bpp']:.4f}"): {_called(*by): _told(record, *by) for by in measures}
        for name, group in groups.items()
        for record in sorted(group, key=lambda record: record.result["bpp"])
    }
    print(pd.DataFrame(table).T.rename_axis(["codec", "bpp"]).to_string(), end="\n\n")
    if min(map(len, groups.values())) < 2:
        raise ValueError("a curve needs two rates or more: give `icm judge` several --quality or --weights")
    curves = {by: {name: bd.curve(group, *by, name) for name, group in groups.items()} for by in measures}
    anchor, *others = names
    if others:
        print(f"BD-rate [%] against {anchor}, below zero where fewer bits are needed:")
        gains = {
            _called(*by): {n: _shown(bd.bd_rate(drawn[anchor], drawn[n])) for n in others}
            for by, drawn in curves.items()
        }
        print(pd.DataFrame(gains).T.to_string())
    if out:
        looks = zip(names, cycle(plots.LOOKS), strict=False)
        # matplotlib reads mathematics between dollars, and leaves out of a legend what begins with an underscore.
        shown = {name: name.lstrip("_").replace("$", r"\$") for name in names}
        plots.METHODS.update({name: (colour, marker, shown[name]) for name, (colour, marker) in looks})
        plots.use_style()
        title = f"{len(kept[paths[0]][0]['asked']['ids'])} pictures of {kept[paths[0]][0]['asked']['data']}"
        figure = plots.rate_accuracy_panels([(_called(*by), drawn, None) for by, drawn in curves.items()], title)
        with files.atomically(out) as temporary:
            figure.savefig(temporary, format=out.suffix[1:] or "png")
        print(f"wrote {out}")


def _pictures(records: Sequence[dict[str, Any]]) -> set[str]:
    """What tells apart the pictures that records were measured on."""
    return {json.dumps([record["asked"][key] for key in ("size", "pictures", "ids")]) for record in records}


def rates(quality: Sequence[int] | None, weights: Sequence[Path] | None) -> list[dict[str, Any]]:
    """`quality` and `weights` of each rate; one of each is given for every rate, or for all.

    A ValueError says that it is neither, or that a file of weights is missing.
    """
    given = {"quality": quality or (None,), "weights": weights or (None,)}
    count = max(map(len, given.values()))
    if any(len(values) not in (1, count) for values in given.values()):
        told = f"{len(weights)} --weights and {len(quality)} --quality"
        raise ValueError(f"{told}: give one of each for every rate, or one for all")
    if absent := ", ".join(str(path) for path in weights or () if not path.is_file()):
        raise ValueError(f"no weights at {absent}: correct the path")
    return [{name: values[k % len(values)] for name, values in given.items()} for k in range(count)]


def named(text: str) -> str:
    """What a recipe calls a detector, by its name or with your own weights, as in `models.fingerprinted`; a ValueError says
    that there is none."""
    if text.partition("=")[0] not in (known := models.names("detect") + models.names("semantic")):
        raise ValueError(f"no detector is called {text!r}; known: {', '.join(known)}")
    return models.fingerprinted(text)


def _sized(codec: str) -> str:
    """The name of a codec without its size."""
    return re.sub(r"-q\d+$", "", codec)


def _part(asked: Coding, model: Any) -> Given | Classical:
    roi = asked.roi if asked.roi in (None, "truth") else named(asked.roi)
    if isinstance(model, torch.nn.Module):
        return Given(zoo.named(asked.codec, asked.quality), networks.fingerprint(model).hex(), roi or "none")
    setting = zoo.find(asked.codec)[0].setting
    return Classical(asked.codec, **({setting: asked.quality} if setting else {}), roi=roi or "none")


def _kept(out: Path | None) -> list[dict[str, Any]]:
    """What an earlier :func:`judge` wrote."""
    if out is None or not out.exists():
        return []
    with suppress(TypeError, ValueError):
        kept = json.loads(out.read_text(encoding="utf-8"))
        if isinstance(kept, list) and all({"asked", "result", "bootstrap"} <= set(record) for record in kept):
            return kept
    raise ValueError(f"{out} was not written by `judge`, or is damaged: name another --out, or delete it")


def _rate(k: int, record: dict[str, Any]) -> Any:
    """One rate of a codec, the `k`-th, as a curve takes it."""
    recipe = SimpleNamespace(setting=k, codec=None)  # nobody knows its training
    return SimpleNamespace(recipe=recipe, result=record["result"], bootstrap=record["bootstrap"])


def _accuracies(records: list[Any]) -> list[tuple[str, str | None]]:
    """(metric, detector) of the accuracies that all records have; of PSNR, which is nobody's, None."""

    def by_detector(record: Any, metric: str) -> list[str | None]:
        found = record.bootstrap.get(metric, {})
        return list(found) if isinstance(found, dict) else [None]

    metrics = ("box_ap", "mask_ap", "agreement", "pq", "psnr")
    found = ({(m, name) for m in metrics for name in by_detector(r, m)} for r in records)
    return sorted(set.intersection(*found), key=str)


def _told(record: Any, metric: str, name: str | None) -> str:
    """A value with its 95 % interval."""
    value, drawn = (part[metric] if name is None else part[metric][name] for part in (record.result, record.bootstrap))
    found = of_pictures(value, np.array(drawn))
    return f"{value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _shown(change: Interval) -> str:
    return str(change) if change.testable else "no common range of accuracy"


def _called(metric: str, name: str | None) -> str:
    return queries.NAMES[metric] + (f" of {name}" if name else " [dB]")
