"""Many independent runs: one after another here, side by side in processes of their own, or as jobs of a cluster.

While a run is going, its names are claimed: locked files, so that several grids on one ledger share the work instead of doing it
twice. The operating system gives a lock back when the processes that hold it have ended, however they ended: none grows stale.
Jobs of a cluster hold none themselves: where the grid that started them was killed outright, let them end before you start another.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar, Protocol

from icm_helpers.ledger.results import ROOT, Recipe

CLAIMS = ROOT / "runs" / "claims"
LOGS = ROOT / "runs" / "logs"

Command = Callable[[Recipe], list[str]]
"""The command line that does one run."""


class GridError(RuntimeError):
    """Some runs failed; the message names their logs."""


# --- claims --------------------------------------------------------------------------------------------------------------


def claim(*names: str) -> list[IO] | None:
    """Take every one of `names` until :func:`release`, or none of them where another process holds one."""
    CLAIMS.mkdir(parents=True, exist_ok=True)
    files = []
    for name in names:
        files.append(open(CLAIMS / f"{name}.lock", "a"))  # noqa: SIM115 (open is what holds it)
        try:
            fcntl.flock(files[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            release(files)
            return None
    return files


def release(files: list[IO]) -> None:
    """Give back what :func:`claim` took."""
    for file in files:
        file.close()


# --- where a run is done -------------------------------------------------------------------------------------------------


class Launcher(Protocol):
    """Where runs are done."""

    every: float
    """How often to ask after them, in seconds."""

    def start(self, recipe: Recipe, claimed: list[IO]) -> Any:
        """Begin a run; what comes back stands for it below."""

    def status(self, task: Any) -> int | None:
        """None while it is going, 0 where it went well."""

    def stop(self, tasks: list[Any]) -> None:
        """End what is going."""


@dataclass(frozen=True)
class Here:
    """In this process, by `work`."""

    work: Callable[[Recipe], None]
    every: ClassVar[float] = 0

    def start(self, recipe: Recipe, claimed: list[IO]) -> int:
        try:
            self.work(recipe)
        except Exception:
            with _open_log(recipe) as output:
                traceback.print_exc(file=output)
            return 1
        return 0

    def status(self, task: int) -> int:
        return task

    def stop(self, tasks: list[int]) -> None:
        pass


@dataclass(frozen=True)
class Processes:
    """Each in a process of its own, with a share of the cores.

    Its imports take seconds, where the run takes minutes or hours. In return a crash takes no other run with it, and no process is
    forked from one that has used torch, whose threads do not survive that.

    Args:
        command: the command line that does a run.
        jobs: how many the cores are shared by.
        gpus: names for CUDA_VISIBLE_DEVICES; each process sees the one that is least in use.
    """

    command: Command
    jobs: int
    gpus: Sequence[str] = ()
    every: ClassVar[float] = 0.2
    _on: dict[subprocess.Popen, str] = field(default_factory=dict, init=False)

    def start(self, recipe: Recipe, claimed: list[IO]) -> subprocess.Popen:
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        # PASSIVE: threads that wait would otherwise spin, and take time from the other processes. What is set already wins.
        environment = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        if self.gpus:
            busy = [gpu for process, gpu in self._on.items() if process.poll() is None]
            environment["CUDA_VISIBLE_DEVICES"] = min(self.gpus, key=busy.count)
        with _open_log(recipe) as output:
            process = subprocess.Popen(
                self.command(recipe),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[file.fileno() for file in claimed],  # the claim lasts as long as either process
                start_new_session=True,  # so that Ctrl-C reaches it once, from `stop`
            )
        self._on[process] = environment.get("CUDA_VISIBLE_DEVICES", "")
        return process

    def status(self, task: subprocess.Popen) -> int | None:
        return task.poll()

    def stop(self, tasks: list[subprocess.Popen]) -> None:
        # First like Ctrl-C, which leaves time to remove temporary files.
        for number, patience in ((signal.SIGINT, 10), (signal.SIGKILL, 10)):
            deadline = time.monotonic() + patience
            for task in tasks:
                with suppress(ProcessLookupError):
                    os.killpg(task.pid, number)
            for task in tasks:
                with suppress(subprocess.TimeoutExpired):
                    task.wait(max(0, deadline - time.monotonic()))


@dataclass(frozen=True)
class Jobs:
    """Each as a job of its own of a submitit `executor`, as :func:`slurm` makes one."""

    command: Command
    executor: Any
    every: ClassVar[float] = 2

    def start(self, recipe: Recipe, claimed: list[IO]) -> Any:
        _open_log(recipe).close()
        return self.executor.submit(_execute, self.command(recipe), log(recipe))

    def status(self, task: Any) -> int | None:
        if not task.done():
            return None
        # A job that was killed, or ran out of time, has an exception instead of a result.
        return 1 if task.exception() is not None else task.result()

    def stop(self, tasks: list[Any]) -> None:
        for task in tasks:
            task.cancel()


def slurm(*, partition: str | None, timeout_min: int, gpus: int, cluster: str = "slurm") -> Any:
    """A submitit executor: what each job asks Slurm for. `cluster="local"` tries the same without Slurm.

    Raises:
        ImportError: the package submitit is not installed.
        RuntimeError: there is no Slurm here.
    """
    try:
        import submitit
    except ImportError as error:
        raise ImportError(
            f"jobs on a cluster need the package submitit ({error}): install the extra `cluster`, "
            "as in `pip install 'icm-book[cluster]'`"
        ) from error
    executor = submitit.AutoExecutor(LOGS / "submitit", cluster=cluster)
    asked = {"name": "icm", "timeout_min": timeout_min, "gpus_per_node": gpus}
    executor.update_parameters(**asked, **({"slurm_partition": partition} if partition else {}))
    return executor


def log(recipe: Recipe) -> Path:
    """Where the output of a run's process or job goes, and the traceback of a run that failed here."""
    return LOGS / f"{recipe.run_id}.log"


def _open_log(recipe: Recipe) -> IO:
    LOGS.mkdir(parents=True, exist_ok=True)
    return open(log(recipe), "a", encoding="utf-8")


def _execute(command: list[str], output: Path) -> int:
    """The work of a cluster's job."""
    with open(output, "a") as file:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT).returncode


# --- all of them ---------------------------------------------------------------------------------------------------------


def sweep(
    recipes: Iterable[Recipe],
    launcher: Launcher,
    finished: Callable[[Recipe], bool],
    *,
    jobs: int = 1,
    retries: int = 1,
) -> None:
    """Do the runs, `jobs` at a time, but for those that other processes finish or are busy with.

    A run that fails is tried `retries` times more, after the others. Ctrl-C, SIGTERM and a lost terminal stop whatever is going.
    Where only runs of other processes are left, it waits for them, to take over what they leave undone.

    Raises:
        GridError: a run failed each time; all others are done.
        ValueError: fewer jobs than one.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, not {jobs}")
    waiting, running, failed = list(recipes), [], []
    total, done, tries, begun, told = len(waiting), 0, Counter(), time.monotonic(), False
    # Under nohup a terminal may go.
    heard = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in heard}
    try:
        while waiting or running:
            for recipe in list(waiting):
                if len(running) == jobs:
                    break
                # The codec's name too: of two runs that judge one codec, one trains it, and the other then finds it.
                claimed = claim(recipe.codec_id, recipe.run_id)
                if claimed is None:
                    continue
                waiting.remove(recipe)
                if finished(recipe):
                    release(claimed)
                    done += 1
                    print(f"{done} of {total} done, by another process: {recipe.run_id}", flush=True)
                    continue
                tries[recipe] += 1
                print(f"start: {recipe.run_id}", flush=True)
                running.append((recipe, launcher.start(recipe, claimed), claimed))
            if waiting and not running and not told:
                told = True
                print(f"waiting: other processes are busy with {', '.join(r.run_id for r in waiting)}", flush=True)
            for run in list(running):
                recipe, task, claimed = run
                status = launcher.status(task)
                if status is None:
                    continue
                running.remove(run)
                release(claimed)
                if status == 0:
                    done += 1
                    minutes = (time.monotonic() - begun) / done * (total - done) / 60
                    print(f"{done} of {total} done, about {minutes:.0f} minutes left: {recipe.run_id}", flush=True)
                else:
                    again = tries[recipe] <= retries
                    (waiting if again else failed).append(recipe)
                    what = f"failed with status {status}" + (", will be tried again" if again else "")
                    print(f"{what}: {recipe.run_id}: {_last_line(recipe)}", flush=True)
            time.sleep(launcher.every if running else 1 if waiting else 0)
    finally:
        launcher.stop([task for _, task, _ in running])
        for _, _, claimed in running:
            release(claimed)
        for number, handler in before.items():
            signal.signal(number, handler)
    if failed:
        logs = ", ".join(str(log(recipe)) for recipe in failed)
        raise GridError(f"{len(failed)} of {total} runs failed, the others are done: see {logs}")


def part(text: str) -> tuple[int, int]:
    """A share of the work from a command line: (1, 2), the first of two, from `1/2`."""
    k, _, n = text.partition("/")
    if not (k.isdigit() and n.isdigit() and 1 <= int(k) <= int(n)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part: write 1/2 for the first of two")
    return int(k), int(n)


def _last_line(recipe: Recipe) -> str:
    lines = log(recipe).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "without a word"
