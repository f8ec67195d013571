"""The package in programs of anybody's: what it exports, plain numbers, and a wheel far from any clone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

import icm_helpers
from icm_helpers import bd

ROOT = Path(__file__).resolve().parent.parent


def test_everything_that_is_exported_is_there_and_nothing_heavy_comes_before_it_is_used():
    code = "import sys, icm_helpers; dir(icm_helpers); print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT) == "False False\n"
    page = (ROOT / "book" / "reference" / "library.md").read_text()
    for name in icm_helpers.__all__:
        assert getattr(icm_helpers, name).__doc__ and f"icm_helpers.{name}\n" in page
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from icm_helpers import nothing  # noqa: F401


def test_a_picture_is_loaded_as_codecs_take_it(tmp_path):
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    x = icm_helpers.load_picture(tmp_path / "a.png")
    assert x.shape == (3, 4, 5) and np.array_equal((x * 255).round().byte().permute(1, 2, 0).numpy(), pixels)


def test_bd_rate_takes_plain_points_and_gives_no_interval_for_them():
    anchor = [(0.1, 30.0), (0.2, 32.0), (0.4, 35.0), (0.8, 36.0)]
    found = icm_helpers.bd_rate(anchor, np.array(anchor) * [0.8, 1])
    assert found.value == pytest.approx(-20) and np.isnan([found.low, found.high]).all() and str(found) == "-20"
    assert str(bd.bd_rate(anchor, [(0.1, 50), (0.2, 60)])) == "no overlap"
    for wrong in ([(0.0, 30), (0.1, 32)], [(0.1, float("nan")), (0.2, 3)], [0.1, 0.2]):
        with pytest.raises(ValueError, match="a curve is points"):
            bd.bd_rate(anchor, wrong)


def test_a_wheel_works_anywhere_and_writes_into_the_users_folder_alone(tmp_path):
    """Built from what git has, so that no build folder is left here; unpacked, in place of an installation."""
    source, site, home = tmp_path / "source", tmp_path / "site-packages", tmp_path / "home"
    shutil.copytree(ROOT / "icm_helpers", source / "icm_helpers", ignore=shutil.ignore_patterns("__pycache__"))
    (source / "data" / "checkpoints").mkdir(parents=True)
    weights = (f"data/checkpoints/{name}.safetensors" for name in ("start-coco-mini", "mask-rcnn-small"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "data/manifest.toml", *weights):
        shutil.copy(ROOT / name, source / name)
    build = "import setuptools.build_meta as b; b.build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    with ZipFile(next(source.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    before = sorted(site.rglob("*"))
    code = """
import icm_helpers
from icm_helpers import decode, encode, load_codec, load_data, load_detector
from icm_helpers.data import downloads
from icm_helpers import files
sample = load_data("scenes", "val", size=64, limit=1)[0]
codec = load_codec()
assert decode(codec, encode(codec, sample.image)).shape == (3, 64, 64)
load_detector("mask-rcnn-small").detect([sample.image])
assert "coco2017" in downloads.assets()
print(icm_helpers.__file__, files.CLONE, files.ROOT)
"""
    env = {
        **os.environ,
        "PYTHONPATH": str(site),
        "HOME": str(home),
        "XDG_CACHE_HOME": "",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    path, is_clone, root = run.stdout.split()
    assert Path(path).is_relative_to(site) and is_clone == "False" and Path(root).is_relative_to(home)
    assert sorted(site.rglob("*")) == before and list(home.rglob("scenes-val-64-1-*"))
