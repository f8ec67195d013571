"""Many independent runs: one after another here, side by side in processes of their own, or as jobs of a cluster.

While a run of a grid is going, whatever process does it, here or on a cluster, holds locks on its names, so that several grids on
one ledger share the work instead of doing it twice. The operating system gives a lock back when its process has ended, however it
ended: none grows stale.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock, Timeout

from icm_helpers.files import RUNS
from icm_helpers.ledger.recipe import Recipe

LOCKS = RUNS / "locks"
LOGS = RUNS / "logs"


class GridError(RuntimeError):
    """Some runs failed; the message names their logs."""


@contextmanager
def locked(recipe: Recipe, folder: Path) -> Iterator[bool]:
    """Holds a run's name and its codec's (of two runs that judge one codec, one trains it, and the other then finds it), and gives
    whether it does: not where another process holds one of them."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            for name in (recipe.codec_id, recipe.run_id):
                held.enter_context(FileLock(folder / f"{name}.lock", timeout=0))
            free = True
        except Timeout:
            held.close()
            free = False
        yield free


@dataclass(frozen=True)
class Job:
    """What is done with each recipe, in a form that can be sent to other processes: functions of modules, or partials of them."""

    work: Callable[[Recipe], None]
    finished: Callable[[Recipe], bool]
    locks: Path = field(default_factory=lambda: LOCKS)
    logs: Path = field(default_factory=lambda: LOGS)

    def __call__(self, recipe: Recipe) -> str:
        """Do a run: `done`; or `found`, where another process has finished it; or `busy`, where one is at it."""
        with locked(recipe, self.locks) as free:
            there = free and self.finished(recipe)
            if free and not there:
                self.work(recipe)
        return "found" if there else "done" if free else "busy"

    def apart(self, recipe: Recipe) -> str:
        """The same in a process of its own, whose output goes to the run's log."""
        with self.log(recipe).open("a") as output:
            for stream in (1, 2):
                os.dup2(output.fileno(), stream)
        return self(recipe)

    def log(self, recipe: Recipe) -> Path:
        """Where the output of a run's process goes, and the traceback of a run that failed here."""
        self.logs.mkdir(parents=True, exist_ok=True)
        path = self.logs / f"{recipe.run_id}.log"
        path.touch()
        return path


# --- where a run is done: `start` gives a task, of which `outcome` says None while it is going, and then one of these -----

OUTCOMES = ("done", "failed", "found", "busy")  # numbered as exit statuses are


class Here:
    """Runs in this process."""

    every = 0.0  # seconds from one question to the next

    def start(self, job: Job, recipe: Recipe) -> str:
        try:
            return job(recipe)
        except Exception:
            with job.log(recipe).open("a", encoding="utf-8") as output:
                traceback.print_exc(file=output)
            return "failed"

    def outcome(self, task: str) -> str:
        return task

    def stop(self, tasks: list[str]) -> None:
        pass


@dataclass(frozen=True)
class Processes:
    """Each in a new process, with its share of the cores: a crash takes no other run with it, and no process is forked from one
    that has used torch, whose threads do not survive that."""

    jobs: int  # that share the cores
    gpus: Sequence[str] = ()  # names for CUDA_VISIBLE_DEVICES; each process sees the one that is least in use
    every: ClassVar[float] = 0.2
    _on: dict[BaseProcess, str] = field(default_factory=dict, init=False)

    def start(self, job: Job, recipe: Recipe) -> BaseProcess:
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        # PASSIVE: threads that wait would otherwise spin, and take time from the other processes. What is set already wins.
        environment = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        if self.gpus:
            busy = [gpu for process, gpu in self._on.items() if process.is_alive()]
            environment["CUDA_VISIBLE_DEVICES"] = min(self.gpus, key=busy.count)
        process = multiprocessing.get_context("spawn").Process(target=_process, args=(job, recipe, environment))
        process.start()
        self._on[process] = environment.get("CUDA_VISIBLE_DEVICES", "")
        return process

    def outcome(self, task: BaseProcess) -> str | None:
        status = task.exitcode
        return None if status is None else OUTCOMES[status] if 0 <= status < len(OUTCOMES) else "failed"

    def stop(self, tasks: list[BaseProcess]) -> None:
        # First like Ctrl-C, which leaves time to remove temporary files.
        for number in (signal.SIGINT, signal.SIGKILL):
            deadline = time.monotonic() + 10
            for task in (t for t in tasks if t.is_alive()):  # the number of one that is gone may be another's
                with suppress(ProcessLookupError):
                    os.kill(task.pid, number)
            for task in tasks:
                task.join(max(0, deadline - time.monotonic()))


def gpus() -> tuple[str, ...]:
    """Names of this machine's GPUs for CUDA_VISIBLE_DEVICES."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    return tuple(filter(None, visible.split(",")))


def _process(job: Job, recipe: Recipe, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.setsid()  # so that Ctrl-C reaches it once, from `stop`,
    signal.signal(signal.SIGINT, signal.default_int_handler)  # and also where the grid is in the background
    sys.exit(OUTCOMES.index(job.apart(recipe)))


class Cluster:
    """Each as a job of its own of Slurm (a RuntimeError: there is none), or of submitit's `local`, which tries the same without."""

    every = 2.0

    def __init__(self, partition: str | None, timeout_min: int, gpus: int, cluster: str = "slurm") -> None:
        from submitit import AutoExecutor

        asked = {"slurm_partition": partition} if partition else {}
        self.executor = AutoExecutor(LOGS / "submitit", cluster=cluster)
        asked |= {"gpus_per_node": gpus, "cpus_per_task": 5}  # one trains, and four load what it sees
        self.executor.update_parameters(name="icm", timeout_min=timeout_min, **asked)

    def start(self, job: Job, recipe: Recipe) -> Any:
        return self.executor.submit(job.apart, recipe)

    def outcome(self, task: Any) -> str | None:
        # A job that was killed, or ran out of time, has an exception instead of a result.
        return None if not task.done() else "failed" if task.exception() is not None else task.result()

    def stop(self, tasks: list[Any]) -> None:
        for task in tasks:
            task.cancel()


# --- all of them ---------------------------------------------------------------------------------------------------------


def sweep(
    recipes: Iterable[Recipe], launcher: Here | Processes | Cluster, job: Job, *, jobs: int = 1, retries: int = 1
) -> None:
    """Do the runs, `jobs` at a time, but for those that other processes finish or are busy with.

    A run that fails is tried `retries` times more, after the others; a GridError names those that failed each time. Ctrl-C, SIGTERM
    and a lost terminal stop whatever is going. Where only runs of other processes are left, it waits for them, to take over what
    they leave undone.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, not {jobs}")
    waiting, running, failed = list(recipes), {}, []
    total, done, tries, begun, told = len(waiting), 0, Counter(), time.monotonic(), False
    # Under nohup a terminal may go.
    heard = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in heard}
    try:
        while waiting or running:
            for recipe in list(waiting):
                if len(running) == jobs:
                    break
                with locked(recipe, job.locks) as free:
                    there = free and job.finished(recipe)
                if not free or recipe.codec_id in {other.codec_id for other in running}:
                    continue
                waiting.remove(recipe)
                if there:
                    done += 1
                    print(f"{done} of {total} done, by another process: {recipe.run_id}", flush=True)
                    continue
                print(f"start: {recipe.run_id}", flush=True)
                running[recipe] = launcher.start(job, recipe)
            if waiting and not running and not told:
                told = True
                print(f"waiting: other processes are busy with {', '.join(r.run_id for r in waiting)}", flush=True)
            for recipe, outcome in [(recipe, launcher.outcome(task)) for recipe, task in running.items()]:
                if outcome is None:
                    continue
                del running[recipe]
                if outcome in ("done", "found"):
                    done += 1
                    minutes = (time.monotonic() - begun) / done * (total - done) / 60
                    print(f"{done} of {total} done, about {minutes:.0f} minutes left: {recipe.run_id}", flush=True)
                elif outcome == "busy":  # another process was quicker
                    waiting.append(recipe)
                else:
                    tries[recipe] += 1
                    again = tries[recipe] <= retries
                    (waiting if again else failed).append(recipe)
                    what = "failed" + (", will be tried again" if again else "")
                    print(f"{what}: {recipe.run_id}: {_last_line(job.log(recipe))}", flush=True)
            time.sleep(launcher.every if running else 1 if waiting and told else 0)
    finally:
        launcher.stop(list(running.values()))
        for number, handler in before.items():
            signal.signal(number, handler)
    if failed:
        logs = ", ".join(str(job.log(recipe)) for recipe in failed)
        raise GridError(f"{len(failed)} of {total} runs failed, the others are done: see {logs}")


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return (lines or ["without a word"])[-1]
