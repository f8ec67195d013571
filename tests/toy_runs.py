"""Runs of a grid that take no time, for `test_grid`: of their own, so that processes that do them import little."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from icm_helpers.ledger import grid, results
from icm_helpers.ledger import recipe as recipes
from icm_helpers.ledger.recipe import Accuracy, Pictures, Recipe, Trained, Training
from icm_helpers.objectives import MSE

PICTURES, HOW = Pictures("scenes", 4, 64), Training("none", 3, 1, 64, 1e-3, "none", "32-true", 1)


def recipe_of(seed: int = 0, judge: str = "judge@01234567") -> Recipe:
    return Recipe("chapter", PICTURES, Trained("mean-scale-small", MSE(), 0.01, HOW, seed=seed), Accuracy((judge,)))


def job(folder: Path, fate: str = "") -> grid.Job:
    how = {"locks": folder / "locks", "logs": folder / "logs"}
    return grid.Job(partial(measure, folder, fate), partial(finished, folder), **how)


def finished(folder: Path, recipe: Recipe) -> bool:
    recipes.LEDGER = folder / "ledger"  # also where this is another process
    return recipe.path.exists()


def measure(folder: Path, fate: str, recipe: Recipe) -> None:
    """Write the record of a recipe, but what befalls its seed in `fate`, such as `1:fails 2:is-killed`, comes first."""
    with open(folder / "begun", "a") as file:
        file.write(f"{recipe.seed} {os.getpid()}\n")
    happens = dict(item.split(":") for item in fate.split()).get(str(recipe.seed))
    print(f"measuring seed {recipe.seed}", flush=True)
    if happens == "is-killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if happens == "hangs":
        time.sleep(600)
    if happens == "fails" or (happens == "fails-once" and begun(folder).count(recipe.seed) == 1):
        raise ValueError("no luck")
    results.write(recipe, {"bpp": 0.5}, {}, device="cpu", seconds=1.0)


def begun(folder: Path) -> list[int]:
    """The seeds of all runs that were begun, in order."""
    path = folder / "begun"
    return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []


def sweep(folder: Path, seeds: range | list[int], fate: str = "", jobs: int = 2, retries: int = 1) -> None:
    grid.sweep(map(recipe_of, seeds), grid.Processes(jobs), job(folder, fate), jobs=jobs, retries=retries)


def tell(recipe: Recipe) -> None:
    time.sleep(1)
    print(*(os.environ[k] for k in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "CUDA_VISIBLE_DEVICES")))
    print({"torch", "cv2", "compressai", "pandas"} & set(sys.modules))


def never(recipe: Recipe) -> bool:
    return False
