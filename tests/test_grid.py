"""Grids of runs: what is missing gets measured once, whatever fails, stops or runs beside it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from icm_helpers import __main__ as icm
from icm_helpers.ledger import grid, results
from icm_helpers.ledger.results import Recipe

RECIPE = Recipe("chapter", "scenes", 4, 64, "codec", "trained", ("judge@01234567",), loss="mse", lmbda=0.01, steps=3)

PATHS = [str(Path(__file__).parent), str(results.ROOT)]


def use(folder: Path) -> None:
    """Keep ledger, claims and logs in a folder of the test's."""
    results.LEDGER, grid.CLAIMS, grid.LOGS = folder / "ledger", folder / "claims", folder / "logs"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for module, name in ((results, "LEDGER"), (grid, "CLAIMS"), (grid, "LOGS")):
        monkeypatch.setattr(module, name, None)  # so that they are put back
    use(tmp_path)
    return tmp_path


def command(folder: Path, fate: str, recipe: Recipe) -> list[str]:
    """A run that takes no time: a process that calls `measure` with the same arguments."""
    call = f"import test_grid; test_grid.measure({str(folder)!r}, {fate!r}, {json.dumps(asdict(recipe))!r})"
    return [sys.executable, "-c", f"import sys; sys.path[:0] = {PATHS}; {call}"]


def measure(folder: str, fate: str, text: str) -> None:
    """Write the record of a recipe, but what befalls its seed in `fate`, such as `1:fails 2:is-killed`, comes first."""
    use(Path(folder))
    content = json.loads(text)
    recipe = Recipe(**content | {"detectors": tuple(content["detectors"])})
    with open(Path(folder) / "begun", "a") as file:
        file.write(f"{recipe.seed} {os.getpid()}\n")
    happens = dict(item.split(":") for item in fate.split()).get(str(recipe.seed))
    print(f"measuring seed {recipe.seed}", flush=True)
    if happens == "is-killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if happens == "hangs":
        time.sleep(600)
    if happens == "fails" or (happens == "fails-once" and begun(folder).count(recipe.seed) == 1):
        sys.exit("error: no luck")
    results.write(recipe, {"bpp": 0.5}, {}, device="cpu", seconds=1.0)


def begun(folder: Path | str) -> list[int]:
    """The seeds of all runs that were begun, in order."""
    path = Path(folder) / "begun"
    return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []


def sweep(folder: Path, seeds: range | list[int], fate: str = "", jobs: int = 2, retries: int = 1) -> None:
    recipes = [replace(RECIPE, seed=seed) for seed in seeds]
    launcher = grid.Processes(partial(command, folder, fate), jobs)
    grid.sweep(recipes, launcher, lambda recipe: recipe.path.exists(), jobs=jobs, retries=retries)


def records(folder: Path) -> list[int]:
    """The seeds of all records, each of which is whole."""
    return sorted(
        results.read(replace(RECIPE, seed=json.loads(path.read_text())["recipe"]["seed"]))["recipe"]["seed"]
        for path in folder.rglob("*.json")
    )


def test_processes_measure_what_is_missing_and_only_that(folder):
    sweep(folder, [1])
    sweep(folder, range(4), jobs=3)
    assert records(folder) == [0, 1, 2, 3]
    assert sorted(begun(folder)) == [0, 1, 2, 3]


def test_a_run_that_fails_once_is_tried_again_after_the_others(folder, capsys):
    sweep(folder, range(3), "0:fails-once", jobs=1)
    assert begun(folder) == [0, 1, 2, 0]
    assert records(folder) == [0, 1, 2]
    assert grid.log(replace(RECIPE, seed=0)).read_text().count("measuring seed 0") == 2
    assert "will be tried again: codec-mse-l0.01-s0" in capsys.readouterr().out


def test_a_run_that_always_fails_is_named_with_its_log_and_stops_no_other(folder):
    log = grid.log(replace(RECIPE, seed=1))
    with pytest.raises(grid.GridError, match=f"1 of 3 runs failed, the others are done: see {log}"):
        sweep(folder, range(3), "1:fails")
    assert records(folder) == [0, 2]
    assert log.read_text().endswith("error: no luck\n")


def test_a_run_whose_process_was_killed_leaves_nothing_in_the_way(folder):
    with pytest.raises(grid.GridError, match="1 of 1 runs failed"):
        sweep(folder, [0], "0:is-killed", retries=0)
    assert records(folder) == []
    sweep(folder, [0])
    assert records(folder) == [0]


ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def start_grid(folder: Path, *arguments: object) -> subprocess.Popen:
    """`sweep` in another process."""
    code = f"import sys; sys.path[:0] = {PATHS}; import pathlib, test_grid as t; "
    code += f"folder = pathlib.Path({str(folder)!r}); t.use(folder); t.sweep(folder, *{arguments!r})"
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
    process = start_grid(folder, range(3), "0:hangs 1:hangs")
    until(lambda: len(begun(folder)) == 2)
    process.send_signal(number)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[0]
    for line in (folder / "begun").read_text().splitlines():
        with pytest.raises(ProcessLookupError):
            os.kill(int(line.split()[1]), 0)
    assert records(folder) == []
    sweep(folder, range(3))
    assert records(folder) == [0, 1, 2]


def test_two_grids_on_one_ledger_share_the_runs(folder):
    both = [start_grid(folder, range(6)) for _ in range(2)]
    for process in both:
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0 and "6 of 6 done" in output, output
    assert records(folder) == sorted(begun(folder)) == [0, 1, 2, 3, 4, 5]


def test_a_claim_outlives_the_grid_until_its_process_ends(folder):
    process = start_grid(folder, [0], "0:hangs")
    until(lambda: begun(folder))
    process.kill()
    process.communicate()
    name = replace(RECIPE, seed=0).run_id
    assert grid.claim(name) is None
    os.kill(int((folder / "begun").read_text().split()[1]), signal.SIGKILL)
    until(lambda: grid.claim(name))


def test_two_runs_that_need_one_codec_are_never_done_at_once(folder):
    other = replace(RECIPE, detectors=("other@89abcdef",))
    assert other.run_id != RECIPE.run_id and other.codec_id == RECIPE.codec_id
    held = grid.claim(RECIPE.codec_id, RECIPE.run_id)
    assert grid.claim(other.codec_id, other.run_id) is None
    grid.release(held)
    assert grid.claim(other.codec_id, other.run_id)


def test_each_process_gets_its_share_of_cores_and_the_gpu_that_is_least_used(folder, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(grid.os, "cpu_count", lambda: 7)
    tell = [
        sys.executable,
        "-c",
        "import os, time; time.sleep(1); print(*(os.environ[k] for k in ('OMP_NUM_THREADS', 'CUDA_VISIBLE_DEVICES')))",
    ]
    launcher = grid.Processes(lambda recipe: [*tell, str(recipe.seed)], 2, ("0", "1"))
    recipes = [replace(RECIPE, seed=seed) for seed in range(2)]
    grid.sweep(recipes, launcher, lambda recipe: False, jobs=2)
    assert [grid.log(recipe).read_text() for recipe in recipes] == ["3 0\n", "3 1\n"]


def test_jobs_of_a_cluster_measure_and_a_failing_one_is_tried_again(folder):
    pytest.importorskip("submitit", reason="the extra `cluster` is not installed")
    executor = grid.slurm(partition=None, timeout_min=5, gpus=0, cluster="local")
    recipes = [replace(RECIPE, seed=seed) for seed in range(2)]
    launcher = grid.Jobs(partial(command, folder, "1:fails-once"), executor)
    grid.sweep(recipes, launcher, lambda recipe: recipe.path.exists(), jobs=2)
    assert records(folder) == [0, 1]
    assert sorted(begun(folder)) == [0, 1, 1]


@pytest.fixture
def tiny(folder, monkeypatch):
    """The module `run`, with a grid of two JPEG qualities on two small scenes."""
    from icm_helpers import run
    from icm_helpers.data import datasets

    recipes = [Recipe("object_region_mse", "scenes", 2, 64, "jpeg", "classical", (), lmbda=q) for q in (20.0, 60.0)]
    study = SimpleNamespace(data="scenes", hours=0.01, recipes=lambda: recipes)
    monkeypatch.setattr(run.presets, "studies", lambda *_: [study])
    monkeypatch.setattr(run.datasets, "load", partial(datasets.load, root=folder / "cache"))
    return run, recipes


def test_the_command_measures_here_and_skips_what_is_finished(tiny, capsys):
    _, recipes = tiny
    icm.main(["grid", "object_region_mse", "--only", recipes[1].run_id])
    icm.main(["grid", "object_region_mse"])
    assert "1 of 1 done" in capsys.readouterr().out
    small, large = map(results.read, recipes)
    assert small["result"]["bpp"] < large["result"]["bpp"]
    icm.main(["grid", "object_region_mse"])
    assert capsys.readouterr().out.count("start:") == 0


def test_the_command_ends_with_an_error_where_a_run_failed(tiny, monkeypatch):
    run, recipes = tiny
    whole = run.measure
    monkeypatch.setattr(run, "measure", lambda recipe, **how: whole(recipe if recipe.lmbda < 50 else None, **how))
    with pytest.raises(
        SystemExit, match=f"error: 1 of 2 runs failed, the others are done: see .*{recipes[1].run_id}.log"
    ):
        icm.main(["grid", "object_region_mse", "--retries", "0"])
    assert results.read(recipes[0])
    assert "AttributeError" in grid.log(recipes[1]).read_text()


def test_the_command_of_one_run_means_that_run_as_the_grid_would_do_it(tiny):
    _, recipes = tiny
    words = [
        "grid",
        "object_region_mse",
        "--preset",
        "paper",
        "--device",
        "cpu",
        "--compile",
        "--train-only",
        "--jobs",
        "4",
    ]
    args = icm._parser().parse_args(words)
    python, flag, module, *rest = icm._alone(args, recipes[0])
    assert (python, flag, module) == (sys.executable, "-m", "icm_helpers")
    again = icm._parser().parse_args(rest)
    assert again.only == recipes[0].run_id and again.claimed
    for name in ("command", "chapter", "preset", "device", "compile", "train_only"):
        assert getattr(again, name) == getattr(args, name), name
