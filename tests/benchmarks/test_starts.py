"""What one waits for before anything is coded: the command line, imports, a scene, judges."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

import pytest

COMMANDS = {
    "icm --help": ["-m", "icm_helpers", "--help"],
    "import torch": ["-c", "import torch"],
    "import the codecs": ["-c", "from icm_helpers.codecs import zoo"],
    "draw 20 scenes": ["-c", "from icm_helpers.data import scenes; [scenes.scene(seed) for seed in range(20)]"],
    "load yolov5n-scenes": ["-c", "from icm_helpers.tasks import models; models.load('yolov5n-scenes')"],
    "load mask-rcnn-small": ["-c", "from icm_helpers.tasks import models; models.load('mask-rcnn-small')"],
    "load nano Segment Anything": ["-c", "from icm_helpers.tasks import sam; sam.load()"],
    "load mean-scale-small": ["-c", "from icm_helpers.codecs import zoo; zoo.load('mean-scale-small')"],
}


@pytest.mark.parametrize("what", COMMANDS)
def test_a_new_process(starts, what):
    """The median of three; the interpreter's own start is in it."""
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        subprocess.run([sys.executable, *COMMANDS[what]], check=True, capture_output=True)
        seconds.append(time.perf_counter() - begun)
    starts.append({"what": what, "seconds": median(seconds)})
    print(f"\n{what}: {median(seconds):.2f} s")
    assert median(seconds) < (2 if what == "icm --help" else 20)
