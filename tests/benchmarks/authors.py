"""The authors' own code, from clones in the folder that the variable OFFICIAL names, as `make bench OFFICIAL=folder` sets it.

The folder holds LIC_TCM and NeRV as `git clone` makes them. (Segment Anything's own code is the package that the book installs.)
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from torch import Tensor, nn

from icm_helpers.codecs.nerv import NeRV
from icm_helpers.codecs.tcm import TCM


def clone(name: str) -> Path:
    """The folder of a clone; where there is none, the test is skipped."""
    folder = Path(os.environ.get("OFFICIAL") or "none") / name
    if not folder.is_dir():
        pytest.skip(
            f"`make bench OFFICIAL=folder` compares with the authors' code where the folder holds a clone {name}"
        )
    return folder


def named(name: str) -> str:
    """What a table calls it: the repository and the commit."""
    told = subprocess.run(["git", "-C", clone(name), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return f"{name} {told.stdout.strip()}"


def module(path: Path) -> ModuleType:
    """A file of theirs, imported under a name that is nobody else's."""
    spec = importlib.util.spec_from_file_location(f"authors_{path.stem}", path)
    sys.modules[spec.name] = found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def tcm(like: TCM) -> nn.Module:
    """Their LIC-TCM with the weights of ours, and its tables made."""
    theirs = module(clone("LIC_TCM") / "models" / "tcm.py").TCM(config=[2] * 6, N=64)
    theirs.update(force=True)
    theirs.load_state_dict(like.state_dict())
    return theirs.eval()


class TheirNeRV(nn.Module):
    """Their network and encoding of t with the weights of ours, and the loss of their script for beta = .7: pictures of t."""

    def __init__(self, like: NeRV) -> None:
        super().__init__()
        code, self.tools = module(clone("NeRV") / "model_nerv.py"), module(clone("NeRV") / "utils.py")
        self.encode = self.tools.PositionalEncoding(f"{like.pe_base}_{like.pe_levels}")
        self.network = code.Generator(
            **{"embed_length": 2 * like.pe_levels, "stem_dim_num": f"{like.stem_dim}_1", "act": "swish", "bias": True},
            **{"fc_hw_dim": "_".join(map(str, like.fc_hw_dim)), "stride_list": like.strides, "norm": "none"},
            **{"expansion": like.expansion, "reduction": like.reduction, "lower_width": like.lower_width},
            **{"num_blocks": 1, "conv_type": "conv", "sin_res": True, "sigmoid": False},
        )
        self.network.load_state_dict(like.state_dict())

    def forward(self, t: Tensor) -> Tensor:
        return self.network(self.encode(t))[-1]

    def loss(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """`Fusion6` is .7 L1 and .3 (1 - SSIM)."""
        return self.tools.loss_fn(x_hat, x, type("Arguments", (), {"loss_type": "Fusion6"}))
