"""Grids of runs: what is missing gets measured once, whatever fails, stops or runs beside it."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from toy_runs import HOW, PICTURES, begun, job, never, recipe_of, sweep, tell

from icm_helpers import cli, files
from icm_helpers.ledger import grid, results
from icm_helpers.ledger import recipe as recipes
from icm_helpers.ledger.chapter import Chapter
from icm_helpers.ledger.recipe import Accuracy
from icm_helpers.ledger.study import Study

PATHS = [str(Path(__file__).parent), str(files.ROOT)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of the test's for ledger, locks and logs."""
    monkeypatch.setattr(recipes, "LEDGER", tmp_path / "ledger")
    monkeypatch.setattr(grid, "LOCKS", tmp_path / "locks")
    monkeypatch.setattr(grid, "LOGS", tmp_path / "logs")
    return tmp_path


def records(folder: Path) -> list[int]:
    """The seeds of all records, each of which is whole."""
    return sorted(results.load(path).recipe.seed for path in folder.rglob("*.json"))


def test_processes_measure_what_is_missing_and_only_that(folder):
    sweep(folder, [1])
    sweep(folder, range(4), jobs=3)
    assert records(folder) == [0, 1, 2, 3]
    assert sorted(begun(folder)) == [0, 1, 2, 3]


def test_a_run_that_fails_once_is_tried_again_after_the_others(folder, capsys):
    sweep(folder, range(3), "0:fails-once", jobs=1)
    assert begun(folder) == [0, 1, 2, 0]
    assert records(folder) == [0, 1, 2]
    assert job(folder).log(recipe_of(0)).read_text().count("measuring seed 0") == 2
    assert "will be tried again: mean-scale-small-mse-l0.01-s0" in capsys.readouterr().out


def test_a_run_that_always_fails_is_named_with_its_log_and_stops_no_other(folder):
    log = job(folder).log(recipe_of(1))
    with pytest.raises(grid.GridError, match=f"1 of 3 runs failed, the others are done: see {log}"):
        sweep(folder, range(3), "1:fails")
    assert records(folder) == [0, 2]
    assert log.read_text().endswith("ValueError: no luck\n")


def test_a_run_whose_process_was_killed_leaves_nothing_in_the_way(folder):
    with pytest.raises(grid.GridError, match="1 of 1 runs failed"):
        sweep(folder, [0], "0:is-killed", retries=0)
    assert records(folder) == []
    sweep(folder, [0])
    assert records(folder) == [0]


ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def start_grid(folder: Path, *arguments: object) -> subprocess.Popen:
    """`sweep` in another process."""
    code = f"import sys; sys.path[:0] = {PATHS}; import pathlib, toy_runs; "
    code += f"toy_runs.sweep(pathlib.Path({str(folder)!r}), *{arguments!r})"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Who runs the tests in the background has Ctrl-C or a lost terminal switched off, and children inherit that.
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in ENDS],
    )


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.mark.parametrize("number", ENDS, ids=["Ctrl-C", "SIGTERM", "a lost terminal"])
def test_a_grid_that_is_stopped_stops_its_processes_and_goes_on_later(folder, number):
    process = start_grid(folder, range(2), "0:hangs 1:hangs")
    until(lambda: len(begun(folder)) == 2)
    process.send_signal(number)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[0]
    for line in (folder / "begun").read_text().splitlines():
        with pytest.raises(ProcessLookupError):
            os.kill(int(line.split()[1]), 0)
    assert records(folder) == []
    sweep(folder, range(2))
    assert records(folder) == [0, 1]


def test_two_grids_on_one_ledger_share_the_runs(folder):
    both = [start_grid(folder, range(4)) for _ in range(2)]
    for process in both:
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0 and "4 of 4 done" in output, output
    assert records(folder) == sorted(begun(folder)) == [0, 1, 2, 3]


def test_a_lock_outlives_the_grid_until_its_process_ends(folder):
    process = start_grid(folder, [0], "0:hangs")
    until(lambda: begun(folder))
    process.kill()
    process.wait()
    with grid.locked(recipe_of(), folder / "locks") as free:
        assert not free
    assert job(folder)(recipe_of()) == "busy" and begun(folder) == [0]
    os.kill(int((folder / "begun").read_text().split()[1]), signal.SIGKILL)
    until(lambda: job(folder)(recipe_of()) == "done")
    assert job(folder)(recipe_of()) == "found" and begun(folder) == [0, 0]


def test_two_runs_that_need_one_codec_are_never_done_at_once(folder):
    one, other = recipe_of(), recipe_of(judge="other@89abcdef")
    assert other.run_id != one.run_id and other.codec_id == one.codec_id
    with grid.locked(one, folder / "locks"):
        assert job(folder)(other) == "busy"
    assert job(folder)(other) == "done"


def test_each_process_gets_its_share_of_cores_the_gpu_that_is_least_used_and_nothing_heavy(folder, monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(grid.os, "cpu_count", lambda: 7)
    work = grid.Job(tell, never)
    grid.sweep(map(recipe_of, range(2)), grid.Processes(2, ("0", "GPU-1")), work, jobs=2)
    logs = [work.log(recipe_of(seed)).read_text() for seed in range(2)]
    assert logs == ["3 PASSIVE 0\nset()\n", "3 PASSIVE GPU-1\nset()\n"]


def test_jobs_of_a_cluster_measure_and_a_failing_one_is_tried_again(folder, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(PATHS))
    launcher = grid.Cluster(None, 5, 0, cluster="local")
    grid.sweep(map(recipe_of, range(2)), launcher, job(folder, "1:fails-once"), jobs=2)
    assert records(folder) == [0, 1]
    assert sorted(begun(folder)) == [0, 1, 1]
    assert "ValueError: no luck" in job(folder).log(recipe_of(1)).read_text()


@pytest.fixture
def tiny(folder, monkeypatch):
    """A chapter with a grid of two JPEG qualities on two small scenes."""
    from icm_helpers import run
    from icm_helpers.data import datasets

    pictures, none = replace(PICTURES, images=2), Accuracy(())
    study = Study("tiny", "tiny", pictures, "mean-scale-small", HOW, (), (), none, anchors=(("jpeg", (20, 60)),))
    monkeypatch.setattr(cli.chapters, "named", lambda _: Chapter("tiny", "Tiny", (), {"book": (study,)}))
    monkeypatch.setattr(run.datasets, "load", partial(datasets.load, root=folder / "cache"))
    return run, study.recipes()


def test_the_command_measures_here_and_skips_what_is_finished(tiny, capsys):
    _, (small, large, png) = tiny
    cli.main(["grid", "sa_icm", "--only", large.run_id])
    cli.main(["grid", "sa_icm", "--part", "1/3"])
    assert capsys.readouterr().out.count("1 of 1 done") == 2 and not png.path.exists()
    assert results.read(small).result["bpp"] < results.read(large).result["bpp"]
    cli.main(["grid", "sa_icm", "--part", "1/3"])
    assert capsys.readouterr().out.count("start:") == 0


def test_the_command_ends_with_an_error_where_a_run_failed(tiny, monkeypatch):
    run, (small, large, _) = tiny
    whole = run.measure
    monkeypatch.setattr(run, "measure", lambda recipe, **how: whole(recipe if recipe.setting < 50 else None, **how))
    failed = f"error: 1 of 3 runs failed, the others are done: see .*{large.run_id}.log"
    with pytest.raises(SystemExit, match=failed):
        cli.main(["grid", "sa_icm", "--retries", "0"])
    assert results.read(small)
    assert "AttributeError" in grid.Job(tell, never).log(large).read_text()


@pytest.mark.parametrize(
    ("words", "launcher", "jobs"),
    [
        ("--device cpu --compile --train-only --jobs 4", grid.Processes, 4),
        ("--remember --launcher slurm --slurm-partition fast", grid.Cluster, 3),
    ],
)
def test_the_command_hands_on_what_it_is_told(words, launcher, jobs, tiny, monkeypatch):
    asked, told = [], []
    monkeypatch.setattr(tiny[0], "made", lambda recipe: False)
    monkeypatch.setattr(grid.Cluster, "__init__", lambda self, *how: asked.append(how))
    monkeypatch.setattr(grid, "sweep", lambda todo, *rest, **how: told.extend([todo, *rest, how]))
    cli.main(["grid", "sa_icm", *words.split()])
    todo, where, work, how = told
    flags = {name: flag in words for name, flag in (("compiled", "compile"), ("remember", "remember"))}
    wanted = {
        "train_only": "train-only" in words,
        "device": "cpu" if "cpu" in words else "auto",
        "workers": None,
        **flags,
    }
    assert (todo, type(where), how) == (tiny[1], launcher, {"jobs": jobs, "retries": 1})
    assert work.work.keywords == wanted and asked == ([("fast", 1440, 1)] if launcher is grid.Cluster else [])
