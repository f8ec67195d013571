"""What every codec of the book costs: weights, arithmetic, time, and how near its real bytes come to its likelihoods.

Everything runs on the CPU, on one thread, as the container codes. Time is processor time, which still depends on the machine: each
is measured in turns with the same work by `mean-scale-small`, and their ratio is what counts.
"""

from __future__ import annotations

import json
import re
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from compressai.models import CompressionModel
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from tqdm import tqdm

from icm_helpers import evaluate, files, plots
from icm_helpers.codecs import container, networks, zoo
from icm_helpers.data import DataError, datasets, pictures, scenes
from icm_helpers.ledger import results
from icm_helpers.ledger.recipe import LEDGER

TABLE = LEDGER / "codecs" / "kodak.json"
PUBLISHED = LEDGER / "codecs" / "published.json"  # numbers of others, each with its source
REFERENCE = "mean-scale-small"  # whose time is 1
CROP, SIDE = "kodim20", 256  # every codec is counted and timed on the middle of this picture
REPEATS = 5
NAMES = {  # of the trained weights
    "start-coco-mini": "photographs, 6000 steps",
    "mean-scale-small-mse-l0.01-s0-ee6d181f": "photographs, 11000 steps",
    "start-scenes": "scenes, 6000 steps",
    "mean-scale-small-mse-l0.002-s0-bb629e52": "scenes, 10000 steps, smaller lambda",
}
ANCHORS = {"jpeg": (10, 30, 75), "webp": (5, 30, 75), "avif": (15, 35, 60), "hevc": (42, 37, 32), "vvc": (47, 42, 37)}

Row = dict[str, Any]
Codec = Any  # what `container.encode` takes


@dataclass(frozen=True)
class Entry:
    """One codec of one size. `setting` is a range of CompressAI's qualities that share one size, a size of LIC-TCM, or a classical
    codec's quality; `weights` is `random`, `published`, the name of a file, or `none` for a classical codec."""

    codec: str
    setting: str
    weights: str
    build: Callable[[], Codec]

    @property
    def key(self) -> str:
        """Its name in the table."""
        shown = self.weights if self.weights not in ("none", "random") else ""
        return " ".join(part for part in (self.codec, self.setting, shown) if part)


def entries() -> list[Entry]:
    """What the table is to have: each size of each network of the zoo, and the classical codecs at three qualities.

    >>> [e.key for e in entries() if e.codec in ("mbt2018-mean", "tcm")]
    ['tcm small', 'tcm medium', 'tcm large', 'mbt2018-mean 1-4', 'mbt2018-mean 5-8']
    """
    found = []
    for name, codec in zoo.CODECS.items():
        if not codec.network:
            found += [Entry(name, f"{q}", "none", partial(zoo.load, name, q)) for q in ANCHORS.get(name, ())]
        elif name == REFERENCE:
            paths = [zoo.CHECKPOINTS / f"{stem}.safetensors" for stem in NAMES]
            found += [Entry(name, "", path.stem, partial(zoo.load, name, path)) for path in paths]
        elif name == "tcm":
            sizes = {"small": 64, "medium": 96, "large": 128}
            found += [Entry(name, s, "random", partial(networks.build, codec, N=n)) for s, n in sizes.items()]
        else:
            sizes = codec.sizes or {None: ()}
            for size in dict.fromkeys(sizes.values()):
                alike = [q for q, s in sizes.items() if s == size]
                setting = f"{alike[0]}-{alike[-1]}" if codec.sizes else ""
                found.append(Entry(name, setting, "random", partial(zoo.load, name, alike[0], weights=None)))
    return found


def macs(codec: CompressionModel, x: Tensor) -> tuple[int, int, list[bytes]]:
    """Multiplications with addition that `compress` and `decompress` do as they run on `x`, (1, 3, H, W); and the strings.

    Convolutions, linear layers, matrix products and attention count, in an autoregressive codec once a position, on both sides.
    Element by element work, table look-ups, rANS, and what a codec prepares once for all pictures do not.
    """
    # torch (2.13) has no formula for the attention that a CPU takes, and would count none.
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    formulas = {fused: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}
    codec.compress(x)  # LIC-TCM keeps what it prepares from its weights
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=formulas) as encoding:
        coded = codec.compress(x)
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=formulas) as decoding:
        codec.decompress(coded["strings"], coded["shape"])
    strings = [batch[0] for batch in coded["strings"]]
    return encoding.get_total_flops() // 2, decoding.get_total_flops() // 2, strings


def awaken(codec: CompressionModel, x: Tensor, spread: float = 0.3) -> None:
    """Make the latent of a random network, and the scales that price it, about `spread` wide, and compute its CDF tables: they are
    all but zero, so its strings would be empty, and their coding no work and no test."""
    if hasattr(codec, "Gain"):  # the variable-rate models multiply both by a gain before they code
        spread /= codec.Gain[1].item()
    with torch.no_grad():
        last = [layer for layer in codec.g_a if isinstance(layer, nn.Conv2d)][-1]
        last.weight *= spread / codec.g_a(x).std()
        # What predicts scales: of each slice or group, of each position, or all at once.
        names = ("cc_scale_transforms", "entropy_parameters", "h_s")
        name = next(name for name in names if hasattr(codec, name))
        heads = getattr(codec, name)
        for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
            bias = [layer for layer in head if isinstance(layer, nn.Conv2d)][-1].bias
            scales = len(bias) // 2 if name == "entropy_parameters" else last.out_channels
            bias[:scales] += spread  # where means come from the same layer, they come after the scales
    networks.update_tables(codec, force=True)  # not codec.update: the variable-rate models' tables need a gain


def measure(codec: Codec, crop: Tensor, pictures: Mapping[str, Tensor], *, repeats: int = REPEATS) -> Row:
    """One row of the table, of a codec that is ready to code, on the CPU.

    Args:
        crop: the picture to count and to time on, (3, H, W) in [0, 1], `repeats` times in turns with the reference.
        pictures: name -> what to measure rate and quality on; none for a random network, whose pictures mean nothing.

    Returns:
        `parameters`; `macs`, each a pixel of `crop`; `seconds` and `ratio` to the reference; `crop`, its rate in bits per pixel:
        of all bytes, of the strings, and by the likelihoods; `kodak`, the same in the mean over `pictures`, and their mean PSNR in
        dB, of decoded pictures rounded to 8 bits. What a classical codec does not have is left out.
    """
    row: Row = {}
    overhead, coded = 0, container.encode(codec, crop)
    if isinstance(codec, nn.Module):
        row["parameters"] = sum(p.numel() for p in codec.parameters())
        encoding, decoding, strings = macs(codec, crop[None])
        pixels = crop.shape[1] * crop.shape[2]
        row["macs"] = {"encode": encoding / pixels, "decode": decoding / pixels}
        row["container_bytes"] = overhead = len(coded) - sum(map(len, strings))
    row |= _times(codec, crop, repeats)
    row["crop"] = _rate(codec, crop, coded, overhead)
    if pictures:
        found = []
        for x in pictures.values():
            coded = container.encode(codec, x)
            x_hat = (container.decode(codec, coded) * 255).round() / 255
            found.append(_rate(codec, x, coded, overhead) | {"psnr": evaluate.psnr((x - x_hat).square().mean().item())})
        row["kodak"] = {name: statistics.fmean(f[name] for f in found) for name in found[0]}
        row["pictures"] = list(pictures)
    return row


def _rate(codec: Codec, x: Tensor, coded: bytes, overhead: int) -> dict[str, float]:
    """Bits per pixel of `coded`, with the container and without it, and what the likelihoods promised."""
    pixels = x.shape[1] * x.shape[2]
    rate = {"bpp": 8 * len(coded) / pixels}
    if (bits := evaluate.likelihood_bits(codec, x)) is not None:
        rate |= {"bpp_strings": 8 * (len(coded) - overhead) / pixels, "bpp_likelihood": bits / pixels}
    return rate


def _times(codec: Codec, crop: Tensor, repeats: int) -> Row:
    """Median processor seconds of `encode` and `decode`, and the median of their ratios to the reference's of the same turn."""
    both, found = [(c, container.encode(c, crop)) for c in (zoo.load(REFERENCE), codec)], {"seconds": {}, "ratio": {}}
    turns: dict[str, list[tuple[float, float]]] = {"encode": [], "decode": []}
    try:
        for c, coded in both:
            if isinstance(c, nn.Module):
                c.known_fingerprint = networks.fingerprint(c)  # taken once, as where many pictures are coded
            container.decode(c, coded)  # the first time is slower
        for _ in range(repeats):
            for name, work in (("encode", lambda c, coded: container.encode(c, crop)), ("decode", container.decode)):
                # The reference is so quick that a single run of it would be noisy.
                unit = statistics.median(_seconds(work, *both[0]) for _ in range(3))
                own = _seconds(work, *both[1])
                turns[name].append((own, own / unit))
    finally:
        if isinstance(codec, nn.Module):
            codec.__dict__.pop("known_fingerprint", None)  # its weights may change later
    for name, pairs in turns.items():
        found["seconds"][name], found["ratio"][name] = map(statistics.median, zip(*pairs, strict=True))
    return found


def _seconds(work: Callable[..., Any], *arguments: Any) -> float:
    """Processor time of a call, that of programs it starts included."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    start = used()
    work(*arguments)
    return used() - start


def read(path: Path = TABLE) -> dict[str, Row]:
    """The rows of a table by their key, those of :func:`entries` first; LedgerError if it cannot be read or lacks one of them."""
    rows = _rows(path)
    wanted = [entry.key for entry in entries()]
    if missing := [key for key in wanted if key not in rows]:
        raise results.LedgerError(f"{path} lacks {', '.join(missing)}: measure with `icm complexity`")
    return {key: rows[key] for key in [*wanted, *(key for key in rows if key not in wanted)]}


def _rows(path: Path) -> dict[str, Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if not all(isinstance(row, dict) and "setting" in row for row in rows.values()):
            raise ValueError("it is another file")
        return rows
    except (OSError, ValueError, AttributeError) as error:
        raise results.LedgerError(f"{path} cannot be read ({error}): restore it with git, or delete it") from error


def kodak(folder: Path | None = None) -> dict[str, Tensor]:
    """The Kodak pictures in a folder by name, (3, H, W) in [0, 1]: as many of the 24 as are there; DataError without `CROP`."""
    given = folder or datasets.fetched_or_real(datasets.home("kodak"), "kodak")
    found = {path.stem: pictures.load_picture(path) for path in sorted(given.glob("kodim*.png"))}
    if CROP not in found:
        raise DataError(f"{given} has no {CROP}.png: `icm datasets fetch kodak`, or name another folder with --kodak")
    return found


def _add(entry: Entry, pictures: Mapping[str, Tensor], out: Path) -> None:
    torch.manual_seed(0)
    top, left = ((side - SIDE) // 2 for side in pictures[CROP].shape[1:])
    crop = pictures[CROP][:, top : top + SIDE, left : left + SIDE].contiguous()
    codec = entry.build()
    if entry.weights == "random":
        awaken(codec, crop[None])
    row = {"codec": entry.codec, "setting": entry.setting, "weights": entry.weights}
    row |= measure(codec, crop, {} if entry.weights == "random" else pictures)
    row["provenance"] = results.provenance("cpu, one thread")
    rows = _rows(out) | {entry.key: results.rounded(row)}
    with files.atomically(out) as temporary:
        temporary.write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def listed(out: Path = TABLE) -> dict[str, bool]:
    """The rows that a table has or is to have, and whether it has them."""
    have = _rows(out)
    return {key: key in have for key in {entry.key: None for entry in entries()} | have}


def report(
    only: Sequence[str] = (),
    *,
    codec: str | None = None,
    quality: int | None = None,
    weights: Path | None = None,
    folder: Path | None = None,
    out: Path = TABLE,
) -> int:
    """Measure the rows that a table lacks into it, and say how many; those that are there are kept, also where it is stopped.

    Args:
        only: measure these rows of :func:`listed`, again where they are there; ValueError for others.
        codec, quality, weights: add this network instead, with weights of its own, or the shipped or published ones.
        folder: of kodim01.png ..., as in :func:`kodak`.
        out: the table.
    """
    known = {entry.key: entry for entry in entries()}
    if (weights or quality is not None) and not codec:
        raise ValueError("--weights and --quality are of one network: name it, as in --codec tcm")
    if codec:
        zoo.find(codec)
        stem = re.sub(r"(\.pth|\.tar|\.safetensors)+$", "", weights.name) if weights else "published"
        build = partial(zoo.load, codec, quality, weights=weights or "default")
        chosen = [Entry(codec, "" if quality is None else f"{quality}", stem, build)]
    elif unknown := [key for key in only if key not in known]:
        raise ValueError(f"no row is called {', '.join(map(repr, unknown))}: there are {', '.join(known)}")
    else:
        chosen = [known[key] for key in only or [key for key, there in listed(out).items() if not there]]
    pictures, threads = kodak(folder), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for entry in (bar := tqdm(chosen, unit="codec", disable=None)):
            bar.set_description(entry.key)
            _add(entry, pictures, out)
    finally:
        torch.set_num_threads(threads)  # whoever called this goes on computing
    return len(chosen)


# --- for a reader --------------------------------------------------------------------------------------------------------

MIDDLE = ("jpeg 30", "webp 30", "avif 35", "hevc 37", "vvc 42")  # of the three qualities that were measured
SERIAL = ("mbt2018", "mbt2018-vbr", "cheng2020-anchor", "cheng2020-attn")  # one position after another
LABELS = {  # in the figure of time, of those that lie together one, and where its name goes
    "mean-scale-small": (8, -3),
    "tcm-tiny": (-8, 6),
    "tcm large": (8, -3),
    "mbt2018-mean 1-4": (8, -8),
    "mbt2018 1-4": (-8, 6),
    "mbt2018-vbr": (8, 3),
    "cheng2020-anchor 1-3": (-4, -16),
    "cheng2020-attn 4-6": (8, 3),
}
LEARNED = {"tcm large": ("#0072b2", "s"), "cheng2020-attn": ("#d55e00", "D"), "mbt2018-mean": ("#009e73", "o")}


def published() -> dict[str, dict[str, Any]]:
    """Curves that others published, by name: `bpp`, `psnr` and `source`."""
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))


def tried(*names: str) -> dict[str, Row]:
    """Rows of random networks, or JPEG, measured once on a drawn picture: to see that measuring works."""
    picture = pictures.tensor(scenes.scene(1_000_000, 128).image)
    rows = {}
    for name in names:
        network = zoo.find(name)[0].network
        codec = zoo.load(name, weights=None) if network else zoo.load(name, 30)
        if network:
            awaken(codec, picture[None])
        told = {"codec": name, "setting": "" if network else "30", "weights": "random" if network else "none"}
        rows[name if network else f"{name} 30"] = told | measure(codec, picture, {"drawn": picture}, repeats=1)
    return rows


def costs(rows: Mapping[str, Row]) -> pd.DataFrame:
    """Weights, arithmetic and time of every network, and of the classical codecs at their middle quality."""
    table = []
    for key, row in rows.items():
        if "parameters" in row or key in MIDDLE:
            told = {"codec": row["codec"], "setting": row["setting"]}
            told["weights [millions]"] = f"{row['parameters'] / 1e6:.2f}" if "parameters" in row else ""
            for side in ("encode", "decode"):
                told[f"{side} [kMAC / pixel]"] = f"{row['macs'][side] / 1000:.1f}" if "macs" in row else ""
            for side, ratio in row["ratio"].items():
                told[f"{side} [times]"] = f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"
            told |= {f"{side} [s]": f"{seconds:.3f}" for side, seconds in row["seconds"].items()}
            table.append(told | {"at [bpp]": f"{row['crop']['bpp']:.2f}"})
    costs = pd.DataFrame(table).drop_duplicates(["codec", "setting"])  # trained several times costs the same
    return costs.set_index("codec")


def promises(networks: Mapping[str, Row]) -> pd.DataFrame:
    """The bytes of each network's file beside what its likelihoods promise."""
    table = []
    for row in networks.values():
        rate = row["crop"]
        told = {"codec": row["codec"], "setting": row["setting"], "weights": NAMES.get(row["weights"], row["weights"])}
        told["likelihoods [bpp]"] = f"{rate['bpp_likelihood']:.3f}"
        told["strings [bpp]"] = f"{rate['bpp_strings']:.3f}"
        told["strings over likelihoods"] = f"{100 * (rate['bpp_strings'] / rate['bpp_likelihood'] - 1):+.1f} %"
        table.append(told | {"file [bpp]": f"{rate['bpp']:.3f}", "container [bytes]": row["container_bytes"]})
    return pd.DataFrame(table).set_index("codec")


def qualities(rows: Mapping[str, Row]) -> pd.DataFrame:
    """Rate and PSNR of whole pictures, where they were measured."""
    table = []
    for row in (row for row in rows.values() if "kodak" in row):
        rate = row["kodak"]
        told = {"codec": row["codec"], "setting": NAMES.get(row["weights"], row["setting"])}
        told |= {"file [bpp]": f"{rate['bpp']:.3f}"}
        told["likelihoods [bpp]"] = f"{rate['bpp_likelihood']:.3f}" if "bpp_likelihood" in rate else ""
        table.append(told | {"PSNR [dB]": f"{rate['psnr']:.2f}", "pictures": len(row["pictures"])})
    return pd.DataFrame(table).set_index("codec")


def quoted(curves: Mapping[str, dict[str, Any]]) -> pd.DataFrame:
    """Published points with their sources."""
    rows = {}
    for name, curve in curves.items():
        points = zip(curve["bpp"], curve["psnr"], strict=True)
        told = ", ".join(f"{psnr:.2f} at {bpp:.3f}" for bpp, psnr in points)
        rows[name] = {"PSNR [dB] at bpp": told, "source": curve["source"]}
    return pd.DataFrame(rows).T.rename_axis("published")


def measured_on(rows: Mapping[str, Row]) -> str:
    """On which machines, at which commits and with which packages the rows were measured."""
    kept = {json.dumps({k: v for k, v in row["provenance"].items() if k != "date"}) for row in rows.values()}
    lines = []
    for found in map(json.loads, sorted(kept)):
        names = ("torch", "compressai", "pillow", "imageio-ffmpeg")
        packages = ", ".join(f"{name} {found['packages'][name]}" for name in names)
        lines.append(f"measured on {found['device']} at commit {found['commit']}, with {packages}")
    return "\n".join(lines)


def time_and_arithmetic(networks: Mapping[str, Row]) -> Figure:
    """Decoding time against arithmetic, a point for each network and size."""
    figure, ax = plt.subplots(figsize=(7.2, 4.2))
    named = set()
    for row in networks.values():
        serial, place = row["codec"] in SERIAL, (row["macs"]["decode"] / 1000, row["ratio"]["decode"])
        colour = plots.METHODS["object-region" if serial else "mse"][0]
        ax.plot(*place, "D" if serial else "o", color=colour)
        name = f"{row['codec']} {row['setting']}".strip()
        if name in LABELS.keys() - named:
            named.add(name)
            side = "right" if LABELS[name][0] < 0 else "left"
            ax.annotate(name, place, LABELS[name], textcoords="offset points", fontsize=9, color=colour, ha=side)
    ax.set(xscale="log", xlabel="arithmetic of the decoder [thousand MACs a pixel]")
    ax.set(yscale="log", ylabel="time to decode [times mean-scale-small]")
    ax.margins(0.12)
    return figure


def rate_and_quality(rows: Mapping[str, Row], curves: Mapping[str, dict[str, Any]]) -> Figure:
    """Rate against PSNR of whole pictures, filled, and published curves, hollow."""
    networks = {key: row for key, row in rows.items() if "parameters" in row}
    quoted = LEARNED | {"VTM": (plots.METHODS["vvc"][0], ">"), "WebP": (plots.METHODS["webp"][0], "v")}
    figure, ax = plt.subplots(figsize=(7.2, 5))

    def draw(points: Sequence[Any], how: str, colour: str, label: str) -> None:
        ax.plot([p["bpp"] for p in points], [p["psnr"] for p in points], how, color=colour, label=label)

    for name in (name for name in quoted if name in curves):
        colour, marker = quoted[name]
        points = [p for p in zip(curves[name]["bpp"], curves[name]["psnr"], strict=True) if 0.1 < p[0] < 1.1]
        hollow = {"linestyle": ":", "linewidth": 1, "markerfacecolor": "none"}
        ax.plot(*zip(*points, strict=True), marker, color=colour, label=f"{name}, published", **hollow)
    for name in dict.fromkeys(row["codec"] for key, row in rows.items() if key not in networks):
        colour, marker, label = plots.METHODS[name]
        draw([row["kodak"] for row in rows.values() if row["codec"] == name], marker + "-", colour, label)
    for trained, marker in (("photographs", "o"), ("scenes", "X")):
        points = [row["kodak"] for row in networks.values() if trained in NAMES.get(row["weights"], "")]
        if points:
            draw(points, marker, "#b8860b", f"mean-scale-small, trained on {trained}")
    for key, row in networks.items():  # what a reader measured
        if "kodak" in row and row["weights"] not in NAMES:
            draw([row["kodak"]], "*", plots.INK, key)
    plots.rate_axis(ax, "PSNR [dB]")
    ax.legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
