"""What `make bench` measures, on a machine that does nothing else: two ways to do one thing, timed in turn; how cost grows with the
work; what a start costs. All of it is one table."""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from icm_helpers import files, train
from icm_helpers.ledger import results

ROWS: list[dict[str, object]] = []
GROWTH: list[dict[str, object]] = []
STARTS: list[dict[str, object]] = []
SHARES: list[dict[str, object]] = []
STAGES: list[dict[str, object]] = []


@pytest.fixture(scope="session")
def peak() -> float:
    """Operations a second of a large matrix product in float32, the best of five: what the machine can do at most."""
    a, b = torch.rand(2, 2048, 2048)
    return 2 * 2048**3 / min(_seconds(lambda: a @ b, train.keep_freed_memory) for _ in range(5))


@pytest.fixture
def versus(request: pytest.FixtureRequest, peak: float) -> Callable[..., float]:
    """`versus(ours, theirs, rounds, against)`: the median of our seconds over theirs, and a row of the table.

    A round times three: ours and theirs where freed memory is kept, as in every training and grid of the book; and theirs by the
    C library's defaults, where much of the time goes into clearing fresh pages. The last gives `as_run`. `of_peak` is the share
    of the machine's arithmetic that ours uses: products of matrices, convolutions and attention, as far as this thread does them,
    or so many as the test says.
    """

    def measured(
        ours: Callable[[], object], theirs: Callable[[], object], rounds: int, against: str, operations: float = 0
    ) -> float:
        theirs()  # what only a first time costs
        operations = operations or _operations(ours)
        times = [
            (
                _seconds(ours, train.keep_freed_memory),
                _seconds(theirs, train.keep_freed_memory),
                _seconds(theirs, defaults),
            )
            for _ in range(rounds)
        ]
        kept, as_run = (sorted(t[0] / t[k] for t in times) for k in (1, 2))
        row = {"what": request.node.name.removeprefix("test_"), "against": against, "rounds": rounds}
        row |= {"ratio": median(kept), "least": kept[0], "most": kept[-1], "as_run": median(as_run)}
        row |= {"seconds": median(t[0] for t in times), "theirs": median(t[1] for t in times)}
        row["of_peak"] = operations / row["seconds"] / peak
        ROWS.append(row)
        print(
            f"\n{row['what']}: {row['ratio']:.2f} [{kept[0]:.2f}, {kept[-1]:.2f}], as run {row['as_run']:.2f}, of {against}; "
            f"{row['of_peak']:.2f} of the peak"
        )
        return row["as_run"]

    return measured


def _operations(work: Callable[[], object]) -> float:
    """How many operations `work` takes, as far as PyTorch counts them: nothing in inference mode, nor in other threads."""
    try:
        with FlopCounterMode(display=False) as counted:
            work()
    except AttributeError:  # its counter asks for an autograd graph
        work()
        return 0.0
    return counted.get_total_flops()


@pytest.fixture
def grows(request: pytest.FixtureRequest) -> Callable[..., tuple[float, float]]:
    """`grows(unit, sizes, prepared)`: what `prepared(size)()` takes at each size, and a row of the table.

    Returns the power of the last step of sizes in which seconds grow (one is linear), and by how many megabytes the peak of memory
    grows in it. The first size runs once unmeasured.
    """

    def measured(
        unit: str, sizes: Sequence[float], prepared: Callable[[float], Callable[[], object]]
    ) -> tuple[float, float]:
        defaults()
        prepared(sizes[0])()
        seconds, megabytes = [], []
        for size in sizes:
            work = prepared(size)
            before = _fresh_peak()
            seconds.append(_seconds(work, lambda: None))
            megabytes.append(_memory("VmHWM") - before)
        what, _, by = request.node.name.removeprefix("test_").rpartition("_with_")
        GROWTH.append(
            {"what": what, "with": by, "unit": unit, "sizes": sizes, "seconds": seconds, "megabytes": megabytes}
        )
        told = ", ".join(f"{n:g}: {t:.3g} s {m:.0f} MB" for n, t, m in zip(sizes, seconds, megabytes, strict=True))
        print(f"\n{what} by {unit}: {told}")
        return math.log(seconds[-1] / seconds[-2]) / math.log(sizes[-1] / sizes[-2]), megabytes[-1] - megabytes[-2]

    return measured


@pytest.fixture
def starts() -> list[dict[str, object]]:
    """The rows of what a new process costs."""
    return STARTS


def _fresh_peak() -> float:
    """The megabytes that the process holds, once what it freed is back at the system and its peak is forgotten."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1000


@pytest.fixture
def shares() -> list[dict[str, object]]:
    """The rows of where time goes."""
    return SHARES


@pytest.fixture
def stages() -> list[dict[str, object]]:
    """The rows of what judging consists of."""
    return STAGES


def defaults() -> None:
    """What glibc's thresholds grow to by themselves: tensors above 32 MiB come fresh from the system each time."""
    library = ctypes.CDLL(None)
    library.mallopt(-3, 2**25)
    library.mallopt(-1, 2**26)


def _seconds(work: Callable[[], object], memory: Callable[[], None]) -> float:
    memory()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@pytest.fixture(autouse=True)
def table() -> Iterator[None]:
    """After each test, the rows go to `data/bench.json`, or `_build/bench.json` without the authors' code."""
    yield
    if ROWS or GROWTH or SHARES or STARTS:
        path = (files.SHIPPED if os.environ.get("OFFICIAL") else files.ROOT / "_build") / "bench.json"
        path.parent.mkdir(exist_ok=True)
        told = {"provenance": results.provenance("cpu"), "threads": torch.get_num_threads(), "rows": ROWS}
        told |= {"growth": GROWTH, "shares": SHARES, "stages": STAGES, "starts": STARTS}
        path.write_text(json.dumps(results.rounded(told), indent=1) + "\n")
