"""Paper scale, rehearsed: every ingredient of preset `paper` and all four chapters, with small counts, on two processor cores.

    python -m icm_helpers.rehearsal            (make rehearsal)

It writes miniatures of the papers' data sets and random networks in the published formats, points the `ICM_*` variables at them,
runs each row's command as a user would type it, and prints the table. No number that comes out means anything but the seconds and
the memory.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from icm_helpers import chapters, files


@dataclass(frozen=True)
class Row:
    """One ingredient: what it is, where the papers name it, and the command that exercises it."""

    ingredient: str
    where: str
    command: str  # with $OUT for the folder of a rehearsal
    needs: tuple[str, ...] = ()  # networks that could be written
    seconds: float = 0.0
    memory: float = 0.0  # most at once, in GB
    status: str = ""


_JUDGE = "icm judge --images 2 --codec jpeg --quality 30"
_CCNC, _ICIP, _IINO = (
    "Shindo et al., CCNC 2024, section IV-A",
    "Shindo et al., ICIP 2024, section",
    "Iino et al., section 4",
)
_TRAIN = "--data coco2017 --train-images 2 --steps 2 --batch 1 --patch 64"
_CHAPTERS = {
    "object_region_mse": _CCNC,
    "objectness_distillation": _IINO,
    "sa_icm": f"{_ICIP} 4.1",
    "sa_nerv": f"{_ICIP} 4.3",
}
# The slowest first, so that no core waits at the end.
ROWS = (
    *(
        Row(
            f"chapter {chapters.named(name).title}",
            where,
            f"python -m icm_helpers.notebooks book/papers/{name}.md $OUT/{name}.ipynb -p preset rehearsal",
            ("yolov7",) if name == "sa_nerv" else (),
        )
        for name, where in _CHAPTERS.items()
    ),
    Row(
        "Segment Anything ViT-B",
        f"{_ICIP} 3.1",
        "icm masks make --data coco2017 --split val --images 1 --model vit_b --points 8",
        ("sam-vit-b",),
    ),
    Row(
        "LIC-TCM, N = 128, trained on COCO 2017",
        _CCNC,
        f"icm codec --codec tcm --loss object-region --lmbda 0.05 --start none {_TRAIN} --out $OUT/tcm.safetensors",
    ),
    Row(
        "LIC-TCM, N = 128, as its authors' file",
        _CCNC,
        "icm judge --images 1 --codec tcm --weights $ICM_WEIGHTS/tcm-n128-l0.05.pth.tar --data coco2017 --detector yolov5m",
        ("tcm", "yolov5m"),
    ),
    Row(
        "cheng2020-attn, quality 4, as CompressAI's file",
        _IINO,
        "icm judge --images 1 --codec cheng2020-attn --quality 4 --weights "
        "$ICM_WEIGHTS/cheng2020_attn-mse-4-f7b0ccf2.pth.tar --data coco2017 --detector yolov5m",
        ("cheng2020-attn-q4", "yolov5m"),
    ),
    *(
        Row(what, where, f"{_JUDGE} --data coco2017 --detector {detector}", (detector,))
        for what, where, detector in (
            ("YOLOv5m, COCO 2017", f"{_CCNC}; {_ICIP} 4.1", "yolov5m"),
            ("Mask R-CNN R50-FPN of torchvision", f"{_CCNC}; {_ICIP} 4.1", "mask-rcnn-r50"),
            ("Faster R-CNN R50-FPN of torchvision", "stands for detectron2's", "faster-rcnn-r50"),
            ("Mask R-CNN R50-FPN of detectron2", _IINO, "mask-rcnn-d2"),
            ("Faster R-CNN R50-FPN of detectron2", _IINO, "faster-rcnn-d2"),
            ("YOLOv7, boxes of every anchor", f"{_ICIP} 4.3", "yolov7"),
        )
    ),
    Row(
        "YOLOv7, boxes that its own suppression leaves",
        f"{_ICIP} 4.3",
        f"env ICM_WEIGHTS=$ICM_WEIGHTS/end2end {_JUDGE} --data coco2017 --detector yolov7",
        ("yolov7, end to end",),
    ),
    *(
        Row(
            f"{what}, fine-tuned on coded pictures",
            where,
            f"icm finetune --codec jpeg --quality 30 --data coco2017 --images 2 --steps 1 --batch 2 --detector {detector} "
            f"--out $OUT/{detector}.safetensors",
            (detector,),
        )
        for what, where, detector in (
            ("YOLOv5m", f"{_CCNC}; {_ICIP} 4.1", "yolov5m"),
            ("Mask R-CNN", _CCNC, "mask-rcnn-r50"),
        )
    ),
    Row(
        "YOLOv5m for VisDrone, by its command",
        f"{_CCNC}; {_ICIP} 4.1",
        "icm detector --model yolov5m --data visdrone --images 2 --steps 1 --batch 2 --out $OUT/visdrone.safetensors",
        ("yolov5m",),
    ),
    Row(
        "VisDrone-DET, by that YOLOv5m",
        f"{_CCNC}; {_ICIP} 4.1",
        f"{_JUDGE} --data visdrone",
        ("yolov5m-visdrone",),
    ),
    Row(
        "the SA-ICM authors' weights beside their table",
        "https://github.com/final-0/SA-ICM-v2",
        "icm known --weights $ICM_WEIGHTS/tcm-n128-l0.05.pth.tar --lmbda 0.05 --detector $ICM_WEIGHTS/yolov5m.pt --images 1",
        ("tcm", "yolov5m"),
    ),
    Row(
        "VisDrone-DET, its cars",
        f"{_CCNC}; {_ICIP} 4.1",
        f"{_JUDGE} --data visdrone --detector yolov5m --map car=car",
        ("yolov5m",),
    ),
    Row(
        "Cityscapes, its cars",
        f"{_ICIP} 4.1",
        f"{_JUDGE} --data cityscapes --detector yolov5m --map car=car",
        ("yolov5m",),
    ),
    Row(
        "Panoptic-DeepLab R52 of detectron2, Cityscapes",
        f"{_ICIP} 4.1",
        f"{_JUDGE} --data cityscapes --detector panoptic-deeplab-d2",
        ("panoptic-deeplab-d2",),
    ),
)


def prepared(out: Path, networks: Sequence[str] = (), **sizes: int) -> tuple[dict[str, str], dict[str, str]]:
    """Miniatures and all networks, or some, in a folder: the environment that names them, and of each network `written`, or why it
    is not."""
    from icm_helpers.data import miniatures
    from icm_helpers.tasks import random_weights

    named = miniatures.write(out / "data", **sizes)
    written = random_weights.write(out / "weights", networks)
    named |= {"ICM_WEIGHTS": out / "weights", "ICM_CACHE": out / "cache", "OUT": out}
    return {name: str(path.resolve()) for name, path in named.items()}, written


def done(row: Row, named: Mapping[str, str], written: Mapping[str, str]) -> Row:
    """A row after its command has run, with its seconds, memory and status; its output is in a log in the folder."""
    if lacking := [told for name in row.needs if (told := written.get(name, "not installed")) != "written"]:
        return replace(row, status=lacking[0])
    places = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    log, begun = Path(named["OUT"], "logs", f"{row.ingredient}.log".replace("/", "-")), time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        process = subprocess.Popen(
            ["sh", "-c", f"exec {row.command}"],
            cwd=files.ROOT,
            env={**os.environ, **places, **named},
            stdout=output,
            stderr=output,
        )
        _, status, used = os.wait4(process.pid, 0)  # what this one took, and its own children
    process.returncode = os.waitstatus_to_exitcode(status)
    row = replace(row, seconds=time.monotonic() - begun, memory=1024 * used.ru_maxrss / 1e9)
    if not process.returncode:
        return replace(row, status="runs")
    last = (log.read_text(errors="replace").strip().splitlines() or ["without a word"])[-1]
    return replace(row, status=f"fails: {last[:200]}; see {log}")


def rehearse(out: Path, rows: Sequence[Row] = ROWS, jobs: int = 2) -> list[Row]:
    """All rows, `jobs` at a time, each said as soon as it is done."""
    named, written = prepared(out)

    def work(row: Row) -> Row:
        row = done(row, named, written)
        print(f"{row.seconds:6.0f} s  {row.ingredient}: {row.status}", flush=True)
        return row

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(work, rows))


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| ingredient | named in | command | seconds | GB | status |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        measured = f"{row.seconds:.0f} | {row.memory:.1f}" if row.seconds else "|"
        lines.append(f"| {row.ingredient} | {row.where} | `{row.command}` | {measured} | {row.status} |")
    return "\n".join(lines)


def read() -> dict[str, Any]:
    """The table that the repository holds: its date, cores and rows."""
    return json.loads((files.SHIPPED / "rehearsal.json").read_text(encoding="utf-8"))


def main(argv: list[str] | None = None) -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m icm_helpers.rehearsal", description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=files.RUNS / "rehearsal", help="where everything is written")
    parser.add_argument("--out", type=Path, help="a JSON file for the table (default: table.json in the folder)")
    parser.add_argument("--only", default="", help="only the rows whose ingredient contains this")
    parser.add_argument("--note", default="", help="a sentence on the machine, for that file")
    parser.add_argument("--jobs", type=int, default=2, help="rows at a time, a core each")
    args = parser.parse_args(argv)
    begun = time.monotonic()
    rows = rehearse(args.folder, [row for row in ROWS if args.only in row.ingredient], args.jobs)
    print(table(rows))
    print(f"{(time.monotonic() - begun) / 60:.1f} minutes in all")
    content = {
        "date": f"{datetime.date.today()}",
        "cores": args.jobs,
        "note": args.note,
        "rows": list(map(asdict, rows)),
    }
    with files.atomically(args.out or args.folder / "table.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if failed := [row.ingredient for row in rows if not row.status.startswith(("runs", "not installed"))]:
        sys.exit(f"error: {len(failed)} of {len(rows)} rows fail: {', '.join(failed)}")


if __name__ == "__main__":
    main()
