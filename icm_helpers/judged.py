"""A codec of anybody's, measured as the book measures its own, and compared with the book on the same pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from icm_helpers import bd, evaluate, files, run, train
from icm_helpers.codecs import networks, zoo
from icm_helpers.data import coco, datasets
from icm_helpers.ledger import queries, verdicts
from icm_helpers.ledger.recipe import Accuracy, Classical, Given, Pictures, Recipe, flat
from icm_helpers.options import Coding
from icm_helpers.tasks import models


def judge(
    codecs: Sequence[Coding], pictures: Pictures, detectors: Sequence[str], out: Path | None, device: str
) -> None:
    """Print rate, PSNR and AP of a codec at its rates, in turn, and from two rates on its BD-rates against the codecs of the book.

    Detectors are as in :func:`named`. All that is measured goes to `out`, a JSON file; what it holds already is not measured again.
    A ValueError says that a detector cannot judge this, or that `out` is another file.
    """
    if out:
        files.claim(out)
    data, judges = pictures.data, Accuracy(tuple(map(named, detectors)))
    dataset = datasets.load(data, "val", size=pictures.size, limit=pictures.images)
    for name, full in zip(detectors, judges.detectors, strict=True):
        coco.require_categories(dataset, models.load(full).categories, name)
    pictures, kept, records, fresh = replace(pictures, images=len(dataset)), _kept(out), [], False
    same = {"pictures": files.fingerprint(dataset.annotations), "ids": dataset.ids}
    for k, codec in enumerate(codecs):
        model = codec.coder()
        recipe = Recipe("mine", pictures, _part(codec.codec, codec.quality, model), judges)
        asked = json.loads(json.dumps(flat(recipe))) | same
        record = next((record for record in kept if record["asked"] == asked), None)
        if record is None:
            result, bootstrap = run.measured(recipe, model, device=device)
            record, fresh = {"asked": asked, "result": result, "bootstrap": bootstrap}, True
            if out:
                with files.atomically(out) as temporary:  # with what another process has written meanwhile
                    temporary.write_text(json.dumps([*_kept(out), record]), encoding="utf-8")
        result, bootstrap = record["result"], record["bootstrap"]
        records.append(SimpleNamespace(recipe=SimpleNamespace(setting=k), result=result, bootstrap=bootstrap))
        told = " ".join(str(word) for word in (codec.codec, codec.weights, codec.quality) if word is not None)
        print(f"{told}: {result['bpp']:.4f} bpp, {result['psnr']:.2f} dB, {len(dataset)} pictures of {data}")
        for metric, name in _accuracies(records[-1:]):
            low, high = np.percentile(bootstrap[metric][name], [2.5, 97.5])
            print(f"  {queries.NAMES[metric]} of {name} {result[metric][name]:.3f} [{low:.3f}, {high:.3f}]", flush=True)
    for name, full in zip(detectors, judges.detectors, strict=True) if fresh else ():
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
        found = queries.rivals(bd.curve(records, metric, name), [] if "=" in name else alike, metric, name)
        yield f"BD-rate [%] by {queries.NAMES[metric]} of {name}, below zero where yours needs fewer bits:"
        for rival, change in found.items():
            yield f"  {rival:20} {change if change.defined >= verdicts.DEFINED else 'no common range of accuracy'}"
        if not found:
            yield f"  the book measured nothing on these {len(ids)} pictures with this detector"


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
    """What a recipe calls a detector; `mask-rcnn-small=judge.safetensors` is one of that kind with weights of one's own.

    A ValueError says that there is no such detector, or none with weights of one's own.
    """
    kind, _, file = text.partition("=")
    known = models.names("detect", "train") if file else models.names("detect")
    if kind not in known:
        told = f"{text}: weights of your own may be those of" if file else f"no detector is called {text!r}; there is"
        raise ValueError(f"{told} {', '.join(known)}")
    if file:
        models.MODELS[text] = replace(models.MODELS[kind], name=text, file=lambda: Path(file), fingerprint="")
    return models.fingerprinted(text)


def _part(codec: str, quality: int | None, model: Any) -> Given | Classical:
    if isinstance(model, torch.nn.Module):
        return Given(zoo.named(codec, quality), networks.fingerprint(model).hex())
    setting = zoo.find(codec)[0].setting
    return Classical(codec, **({setting: quality} if setting else {}))


def _kept(out: Path | None) -> list[dict[str, Any]]:
    """What an earlier :func:`judge` wrote."""
    if out is None or not out.exists():
        return []
    with suppress(TypeError, ValueError):
        kept = json.loads(out.read_text(encoding="utf-8"))
        if isinstance(kept, list) and all({"asked", "result", "bootstrap"} <= set(record) for record in kept):
            return kept
    raise ValueError(f"{out} was not written by `judge`, or is damaged: name another --out, or delete it")


def _accuracies(records: list[Any]) -> list[tuple[str, str]]:
    """(metric, detector) of the accuracies that all records have."""
    metrics = ("box_ap", "mask_ap", "agreement", "pq")
    return sorted(set.intersection(*({(m, name) for m in metrics for name in r.result.get(m, {})} for r in records)))
