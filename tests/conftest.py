"""Fixtures shared by the tests."""

import multiprocessing
import os
from multiprocessing.context import ForkServerContext
from pathlib import Path

import hypothesis
import pytest
import torch

from icm_helpers import notebooks

ROOT = Path(__file__).resolve().parent.parent
for _name, _examples in (("default", 300), ("long", 10_000)):
    _calm = [hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow]
    _how = {"deadline": None, "derandomize": _name == "default", "suppress_health_check": _calm}
    hypothesis.settings.register_profile(_name, max_examples=_examples, **_how)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def elsewhere() -> ForkServerContext:
    """Starts processes that share nothing with this one, from one that has imported the package, which takes seconds, and done
    nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(notebooks.PRELOADED)  # as chapters' kernels do, which use the same
    return context


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of small real data, named by ICM_REAL_DATA; the test skips where there is none."""
    folder = Path(os.environ.get("ICM_REAL_DATA", ROOT.parent / "shared" / "real"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set ICM_REAL_DATA to the folder that holds coco_mini and the weights")
    return folder


@pytest.fixture(scope="session")
def oracles() -> Path:
    """Folder of numbers computed by the original implementations; the test skips where it is absent."""
    folder = Path(os.environ.get("ICM_ORACLES", ROOT.parent / "shared" / "oracles"))
    if not folder.is_dir():
        pytest.skip(f"no oracle numbers at {folder}: set ICM_ORACLES to their folder")
    return folder
