"""One training loop for codecs and detectors, on CPU or GPU. Everything random in a step is drawn from (seed, step), so a run that
was killed at any moment and started again ends with the same weights as one that was left alone.

Under `torchrun --nproc_per_node=N` the N processes train one model together: each takes its N-th of every batch, the gradients are
averaged, and the first process alone reports and writes. Each draws a codec's quantisation noise for itself, and batch
normalisation sees its own share only; else the step is that of a single process on the whole batch.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Callable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from types import MethodType
from typing import Any, ClassVar

import torch
from compressai.entropy_models import EntropyBottleneck, EntropyModel
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from icm_helpers import files

Objective = Callable[[nn.Module, Any], dict[str, Tensor]]


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the step and the batch."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train: Adam, linear warm-up, then steps down by `gamma` at fractions of the run. `aux_lr` is the
    rate of the auxiliary optimiser, which fits the entropy bottleneck's quantiles; they lag behind, and the code tables are made
    from them, so after the last step they are searched for."""

    steps: int
    batch: int = 4
    lr: float = 5e-4
    warmup: int = 100
    milestones: tuple[float, ...] = (0.8,)
    gamma: float = 0.1
    clip: float = 1.0
    aux_lr: float = 1e-3
    save_every: int = 500
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)  # of Adam; no field, so that checkpoints of before go on

    def factor(self, step: int) -> float:
        """The learning rate at `step`, as a fraction of `lr`."""
        passed = sum(step >= m * self.steps for m in self.milestones)
        return min(1.0, (step + 1) / max(1, self.warmup)) * self.gamma**passed


class _Rounding(TorchFunctionMode):
    """Convolutions and linear layers that round factors and result to bfloat16, and multiply in float32."""

    multiplied = (functional.conv2d, functional.conv_transpose2d, functional.linear)

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function not in self.multiplied or not torch.is_autocast_enabled("cpu"):
            return function(*args, **(kwargs or {}))
        rounded = [value.bfloat16().float() if isinstance(value, Tensor) else value for value in args]
        with torch.autocast("cpu", enabled=False):
            return function(*rounded, **(kwargs or {})).bfloat16()


@contextmanager
def autocast(kind: str, enabled: bool = True) -> Iterator[None]:
    """`torch.autocast` to bfloat16 on a `kind` of device, cpu or cuda; at the speed of float32 on a CPU that has no AVX-512.

    There PyTorch multiplies bfloat16 four to ten times as slowly as float32. So factors are rounded and multiplied in float32:
    products are the same, and their sums, which are kept in float32 either way, differ in the last bits.
    """
    slow = enabled and kind == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    with torch.autocast(kind, torch.bfloat16, enabled=enabled), _Rounding() if slow else nullcontext():
        yield


class _Autocast(MixedPrecision):
    """Fabric's mixed precision, but inputs stay in float32: box coordinates do not survive bfloat16's eight bits."""

    def convert_input(self, data: Any) -> Any:
        return data

    def forward_context(self) -> AbstractContextManager[None]:
        return autocast(self.device)


def fabric(device: str = "auto", precision: str = "32-true") -> Fabric:
    """A Lightning Fabric on one device, or under torchrun on one for each process: `device` is auto, cpu or cuda; `precision` is
    32-true or bf16-mixed. ValueError for others, RuntimeError where there is no cuda."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, not {device!r}")
    if precision not in ("32-true", "bf16-mixed"):
        raise ValueError(f"precision must be 32-true or bf16-mixed, not {precision!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("device='cuda', but this machine shows no CUDA device: use device='auto' or 'cpu'")
    kind = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.allow_tf32 = False  # its 19 bits are not float32, which 32-true says and coders count on
    plugins = [_Autocast("bf16-mixed", kind)] if precision == "bf16-mixed" else []
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if distributed.is_torchelastic_launched() else 1
    # Not every parameter of a detector, or of Segment Anything's prompts, takes part in its training.
    strategy = DDPStrategy(find_unused_parameters=True) if world() > 1 else "auto"
    return Fabric(accelerator=kind, strategy=strategy, devices=here, num_nodes=world() // here, plugins=plugins)


def world() -> int:
    """How many processes train together: torchrun's number, or 1."""
    return int(os.environ["WORLD_SIZE"]) if distributed.is_torchelastic_launched() else 1


def rank() -> int:
    """This process's number among them; 0 is the one that writes."""
    return int(os.environ["RANK"]) if distributed.is_torchelastic_launched() else 0


def keep_freed_memory() -> None:
    """Have GNU's C library keep what tensors on the CPU leave behind, for those of the next step: by default large ones go back to
    the system, which clears their pages before it gives them out again, a tenth of the time of a step of distillation."""
    trim_threshold, mmap_threshold = -1, -3  # as malloc.h counts the parameters of mallopt
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(mmap_threshold, 2**30)
        library.mallopt(trim_threshold, 2**31 - 1)


def fit(
    model: nn.Module,
    data: Dataset,
    objective: Objective,
    schedule: Schedule,
    *,
    folder: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "32-true",
    compiled: bool = False,
    workers: int | None = 0,
    collate: Callable[[list], Any] | None = None,
    progress: bool = True,
    describe: str = "training",
    identity: str = "",
) -> list[dict[str, float]]:
    """Train `model` in place and give its loss curve.

    Args:
        model: a codec or detector; a codec's `aux_loss` is fitted beside the main loss.
        data: at least `steps * batch` items, each of which depends on its number i alone; step k reads k * batch to (k + 1) *
            batch. Its `identity`, where it has one, says in any words what it shows: a checkpoint of other data is refused.
        objective: (model, batch) -> scalars; `loss` is minimised, the others are logged.
        folder: where the checkpoint is kept (written atomically every `save_every` steps); training resumes from one found there.
            None keeps nothing. Under torchrun every process must see it.
        seed: of everything random in a step.
        device, precision: as in :func:`fabric`. Entropy models always compute in float32.
        compiled: use torch.compile for the forward and backward pass (needs a C++ compiler on a CPU).
        workers, collate: processes that load data (None: 4 for a GPU, which need not wait, else none), and how items become a
            batch; by default they are stacked.
        progress, describe: whether a bar tells how far it is, with ETA, and its first words.
        identity: what is trained (model, data, loss), in any words: a checkpoint with other words is refused.

    Returns:
        One dictionary per 4 % of the steps: `step` and the mean of each logged scalar since the one before.

    Raises:
        NonFiniteLossError: the loss, or its gradient, is NaN or infinite.
        ValueError: too little data, a batch that the processes cannot share evenly, or a damaged checkpoint, or one of another
            schedule, seed or identity. OSError where the checkpoint cannot be written; the one before is still there.
    """
    needed = schedule.steps * schedule.batch
    if isinstance(data, Sized) and len(data) < needed:
        raise ValueError(f"{schedule.steps} steps of {schedule.batch} need {needed} items, the data has {len(data)}")
    if schedule.batch % world():
        raise ValueError(f"{world()} processes cannot share a batch of {schedule.batch} evenly: use another batch")
    keep_freed_memory()
    run = fabric(device, precision)
    run.launch()  # the processes find each other
    model.to(run.device)  # before the optimisers, whose state follows the parameters
    quantiles = [p for name, p in model.named_parameters() if name.endswith("quantiles")]
    main = [p for name, p in model.named_parameters() if p.requires_grad and not name.endswith("quantiles")]
    optimiser = torch.optim.Adam(main, lr=schedule.lr, betas=schedule.betas, fused=True)  # one pass over memory
    aux = torch.optim.Adam(quantiles, lr=schedule.aux_lr) if quantiles else None
    plan = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(schedule).items()}
    recipe = {"schedule": plan, "seed": seed, "identity": identity}
    if folder is not None:
        recipe["data"] = getattr(data, "identity", "")
    start, curve = 0, []
    checkpoint = Path(folder) / "training.ckpt" if folder is not None else None
    if checkpoint is not None and checkpoint.exists():
        state = _checkpoint(checkpoint, recipe)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        if aux is not None:
            aux.load_state_dict(state["aux"])
        start, curve = state["step"], state["curve"]
    # Likelihoods are ratios of small differences: in bfloat16 they would be noise, so entropy models leave autocast. A bound
    # method, not a closure: a deep copy of the model then calls its own entropy model, not this one's.
    for module in model.modules():
        if isinstance(module, EntropyModel):
            module.forward = MethodType(_forward_in_float32, module)
    model.train()
    # Processes average the gradients that the loss gives; the quantiles have another loss, without data, equal in all of them.
    for parameter in quantiles:
        parameter.requires_grad_(False)
    wrapped, optimiser = run.setup(model, optimiser)
    for parameter in quantiles:
        parameter.requires_grad_(True)
    forward = torch.compile(wrapped) if compiled else wrapped
    every, window = max(1, schedule.steps // 25), []
    quiet = 1.0 if sys.stderr.isatty() else 30.0  # in a log file a line every half a minute is enough
    hidden = not progress or rank() > 0
    bar = tqdm(total=schedule.steps, initial=start, desc=describe, disable=hidden, mininterval=quiet)
    share = schedule.batch // world()
    firsts = [k * schedule.batch + rank() * share for k in range(start, schedule.steps)]
    batches = [range(first, first + share) for first in firsts]
    if workers is None:
        workers = 0 if run.device.type == "cpu" else 4
    # Fork, which is not what a run of a grid inherits, shares what data sets hold, and sends no mask's function to anybody.
    context = "fork" if workers and sys.platform == "linux" else None
    loader = DataLoader(
        data, batch_sampler=batches, num_workers=workers, collate_fn=collate, multiprocessing_context=context
    )
    for step, (items, batch) in enumerate(zip(batches, loader, strict=True), start=start):
        # Far apart for neighbouring seeds and steps: no two steps of two runs share their noise.
        torch.manual_seed((seed * 1_000_003 + step * world() + rank()) * 2_654_435_761 % 2**63)
        for group in optimiser.param_groups:
            group["lr"] = schedule.lr * schedule.factor(step)
        terms = objective(forward, run.to_device(batch))
        norm = loss = terms["loss"]
        if torch.isfinite(loss):
            optimiser.zero_grad()
            run.backward(loss)
            norm = run.clip_gradients(wrapped, optimiser, max_norm=schedule.clip, error_if_nonfinite=False)
        if not torch.isfinite(norm):
            names = ", ".join(str(data.source(i)) for i in items) if hasattr(data, "source") else f"items {list(items)}"
            kept = checkpoint if checkpoint and checkpoint.exists() else "not kept"
            gradient = f", the norm of its gradient {norm.item()}," if torch.isfinite(loss) else ""
            told = f"the loss is {loss.item()}{gradient} at step {step} on {names}"
            cure = "lower the learning rate, lengthen the warm-up, or look at that batch"
            raise NonFiniteLossError(f"{told}: {cure}; the last good checkpoint is {kept}")
        optimiser.step()
        if aux is not None:
            aux.zero_grad()
            model.aux_loss().backward()
            aux.step()
        window.append({name: value.item() for name, value in terms.items()})
        done = step + 1
        if done % every == 0 or done == schedule.steps:
            means = torch.tensor([sum(w[k] for w in window) / len(window) for k in terms], dtype=torch.float64)
            means = run.all_reduce(means.to(run.device)).tolist()  # of all processes, whose shares are equal
            curve.append({"step": done, **dict(zip(terms, means, strict=True))})
            window.clear()
            bar.set_postfix({k: f"{v:.3g}" for k, v in curve[-1].items() if k != "step"}, refresh=False)
        bar.update()
        # A checkpoint falls where a window ends, so that resuming loses no point of the curve.
        due = done % (every * math.ceil(schedule.save_every / every)) == 0 or done == schedule.steps
        if checkpoint is not None and due and rank() == 0:
            state = {"recipe": recipe, "step": done, "curve": curve, "model": model.state_dict()}
            save({**state, "optimiser": optimiser.state_dict(), "aux": aux and aux.state_dict()}, checkpoint)
    bar.close()
    if aux is not None:
        with torch.no_grad():
            for part in (m for m in model.modules() if isinstance(m, EntropyBottleneck)):
                part._update_quantiles()
    model.eval()
    return curve


def save(state: dict, path: Path) -> None:
    """torch.save, so that a reader sees the old file or the new one; an OSError keeps the old one."""
    hint = "start again: what the file held before is kept, and the same command continues from there"
    with files.atomically(path, hint=hint) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)


def _checkpoint(path: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint holds, if it is whole and was written by a training of this recipe."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state["recipe"]["schedule"].pop("aux_steps", None)  # which older checkpoints have
        found = {"identity": "", "data": recipe["data"], **state["recipe"]}  # which older checkpoints lack
    except (RuntimeError, UnpicklingError, EOFError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a checkpoint: it is damaged. Delete it to start again") from error
    differing = [f"{k} {found.get(k)!r} there, {v!r} here" for k, v in recipe.items() if found.get(k) != v]
    if differing:
        told = f"{path} was written by another recipe ({'; '.join(differing)})"
        raise ValueError(f"{told}: give another folder or name, or delete it to start again")
    return state


def _forward_in_float32(self: EntropyModel, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    def cast(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

    with torch.autocast(x.device.type, enabled=False):
        return type(self).forward(self, cast(x), *map(cast, args), **{k: cast(v) for k, v in kwargs.items()})
