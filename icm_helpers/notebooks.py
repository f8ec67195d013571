"""Chapters as notebooks: read them with jupytext, execute them with papermill, where a wrong parameter is an error.

python -m icm_helpers.notebooks book/papers/object_region_mse.md out.ipynb -p preset smoke -p seed 1
python -m icm_helpers.notebooks book/papers/object_region_mse.md --help-notebook

A chapter is a text notebook of the book, or an `.ipynb` that was made of one.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import multiprocessing
import os
import sys
import threading
import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import jupytext
import matplotlib
import nbformat
import papermill
import yaml
from ipykernel import kernelapp
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.provisioning import LocalProvisioner
from jupytext.myst import MystMetadataParsingError
from nbformat import NotebookNode
from papermill.models import Parameter

from icm_helpers import files

PRELOADED = [
    "icm_helpers.notebooks",
    "icm_helpers.cli",
    "icm_helpers.ledger.report",
    "icm_helpers.run",
    "icm_helpers.lessons",
]


class ChapterError(RuntimeError):
    """A cell of a chapter failed; `partial` is the notebook up to that cell, with the traceback in it."""

    def __init__(self, message: str, partial: Path):
        super().__init__(message)
        self.partial = partial


class _Kernel(AsyncKernelManager):
    """The kernel of the running Python, whatever other kernel has its name on this machine."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())


class _ForkedKernel(_Kernel):
    """The same, of a process that has imported what chapters use before the kernel starts."""

    def __init__(self, **kwargs: typing.Any):
        super().__init__(**kwargs)
        self.provisioner = _Forked(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)


class _Forked(LocalProvisioner):
    """Starts a kernel by forking a server, which imports once what takes each kernel ten seconds and more."""

    async def launch_kernel(self, cmd: list[str], **kwargs: typing.Any) -> dict[str, typing.Any]:
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(PRELOADED)
        kernel = server.Process(target=_serve, args=(cmd[3:], kwargs.get("cwd"), kwargs["env"]))
        kernel.start()
        self.process, self.pid, self.cwd = _Process(kernel), kernel.pid, kwargs.get("cwd") or Path.cwd()
        self.pgid = kernel.pid  # with all that it starts, see `_serve`
        return self.connection_info


class _Process:
    """A forked process, with what a provisioner asks of a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, forked: multiprocessing.process.BaseProcess):
        self.kill, self.terminate, self._forked = forked.kill, forked.terminate, forked

    def poll(self) -> int | None:
        return self._forked.exitcode

    def wait(self) -> int | None:
        self._forked.join()
        return self._forked.exitcode

    def send_signal(self, signum: int) -> None:
        os.kill(self._forked.pid, signum)


def _serve(arguments: list[str], cwd: Path | None, env: Mapping[str, str]) -> None:
    os.setsid()  # Ctrl-C is for who reads its cells
    os.environ.clear()
    os.environ.update(env)
    if cwd:
        os.chdir(cwd)
    matplotlib.rcParams["backend"] = "module://matplotlib_inline.backend_inline"  # as if this kernel had imported it
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    kernelapp.launch_new_instance(argv=[*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()  # killed, or it would have shut the kernel down
    os._exit(1)


def is_chapter(path: Path) -> bool:
    """Whether a Markdown file is a notebook: its front matter names a kernel; ValueError where that is broken."""
    text = path.read_text(encoding="utf-8-sig")
    front = text.split("\n---", 1)[0] if text.startswith("---\n") else ""
    try:
        return "kernelspec" in (yaml.safe_load(front) or {})
    except yaml.YAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if getattr(error, "problem_mark", None) else ""
        told = f"{path}{where}: the front matter, between the first two lines of ---, is not YAML"
        raise ValueError(f"{told} ({getattr(error, 'problem', error)}): correct it") from None


def chapters(book: Path) -> list[Path]:
    """Every notebook chapter below a folder, in the order of their paths."""
    return [path for path in sorted(book.rglob("*.md")) if is_chapter(path)]


def read(path: Path) -> NotebookNode:
    """A chapter, MyST Markdown or `.ipynb`, as a notebook; FileNotFoundError where there is none, ValueError where it is none."""
    if not path.is_file():
        raise FileNotFoundError(f"no chapter at {path}")
    if path.suffix == ".ipynb":
        try:
            return nbformat.read(path, as_version=4)
        except ValueError as error:
            raise ValueError(f"{path} is not a notebook ({error}): download it again") from None
    if not is_chapter(path):
        raise ValueError(f"{path} is not a notebook: its front matter has no kernelspec (see CONTRIBUTING.md)")
    try:
        return jupytext.reads(path.read_text(encoding="utf-8-sig"), fmt="md:myst")
    except (ValueError, yaml.YAMLError, MystMetadataParsingError) as error:
        raise ValueError(f"{path} cannot be read as a notebook ({error}): correct it") from None


def _assignments(cell: NotebookNode) -> list[tuple[Parameter, ast.expr]]:
    """The assignments of a cell, and where in it the default of each stands; ValueError where it is not Python."""
    try:
        nodes = ast.parse(cell.source).body
    except SyntaxError as error:
        raise ValueError(f"the parameters cell is not Python: {error}") from None
    found, lines = [], cell.source.splitlines()
    for node in nodes:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and getattr(node, "value", None):
            kind = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else "None"
            default = ast.get_source_segment(cell.source, node.value)
            comment = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode().partition("#")[2]
            found.append((Parameter(target.id, kind, default, comment.strip()), node.value))
    return found


def _tagged(nb: NotebookNode, *tags: str) -> list[NotebookNode]:
    return [cell for cell in nb.cells if {*tags} & {*cell.metadata.get("tags", [])}]


def parameters(nb: NotebookNode) -> dict[str, Parameter]:
    """The typed, commented assignments of the cell tagged ``parameters``, by name; ValueError where it is not Python.

    >>> cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "seed: int = 0  # of the live run"}
    >>> parameters(NotebookNode(cells=[NotebookNode(cell)]))["seed"]
    Parameter(name='seed', inferred_type_name='int', default='0', help='of the live run')
    """
    return {p.name: p for cell in _tagged(nb, "parameters") for p, _ in _assignments(cell)}


def check(nb: NotebookNode, given: Mapping[str, object]) -> None:
    """Refuse parameters that the notebook does not have (ValueError), and values of another type than the declared one (TypeError);
    an int may stand for a float, a bool for nothing else."""
    known = parameters(nb)
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"unknown parameter {', '.join(unknown)}: the chapter's are {', '.join(known) or 'none'}")
    for name, value in given.items():
        wanted = known[name].inferred_type_name
        if not _fits(value, _type(wanted)):
            raise TypeError(f"parameter {name} takes {wanted}, not {type(value).__name__} ({value!r})")


def _type(annotation: str) -> typing.Any:
    """The type that a parameter declares; Any where it declares none, or one that only its notebook knows."""
    with suppress(Exception):
        return eval(annotation, {"__builtins__": {}}, vars(builtins) | vars(typing)) or typing.Any
    return typing.Any


def _fits(value: object, kind: typing.Any) -> bool:
    whole, parts = typing.get_origin(kind) or kind, typing.get_args(kind)
    if whole in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if whole is typing.Literal:
        return value in parts
    if whole is typing.Any or not isinstance(whole, type):
        return True
    if type(value) is not whole and not (whole is float and type(value) is int):
        return False
    if whole is dict and parts:
        return all(_fits(k, parts[0]) and _fits(v, parts[1]) for k, v in value.items())
    if whole is tuple and parts and parts[-1] is not ...:
        return len(value) == len(parts) and all(map(_fits, value, parts))
    return not (parts and whole in (list, set, tuple)) or all(_fits(v, parts[0]) for v in value)


def _with_values(nb: NotebookNode, given: Mapping[str, object]) -> NotebookNode:
    """The notebook with these values written into its parameters cell, so that later edits of that cell take effect."""
    for cell in _tagged(nb, "parameters", "injected-parameters"):  # papermill's own, in its outputs, has the last word
        lines = cell.source.encode().splitlines(keepends=True)  # places in a line count bytes
        for parameter, at in reversed(_assignments(cell)):
            if parameter.name in given:
                before, after = lines[at.lineno - 1][: at.col_offset], lines[at.end_lineno - 1][at.end_col_offset :]
                lines[at.lineno - 1 : at.end_lineno] = [before + repr(given[parameter.name]).encode() + after]
        cell.source = b"".join(lines).decode()
    return nb


def execute(
    path: Path,
    output: Path,
    given: Mapping[str, object] | None = None,
    cwd: Path | None = None,
    progress: bool = True,
    forked: bool = False,
) -> NotebookNode:
    """Execute a chapter with papermill into an ``.ipynb``, which appears only once every cell has run.

    `given` are values for the parameters cell, which :func:`check` checks; `cwd` is the working directory of the kernel; `progress`
    shows a bar, a step a cell. `forked`, for one of many chapters, starts its kernel by fork, which takes Linux and a program that
    can be imported (``if __name__ == "__main__"``). ChapterError where a cell failed; OSError, before any runs, where `output`
    cannot be written.
    """
    nb, given = read(path), dict(given or {})
    try:
        check(nb, given)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{path}: {error}") from None
    if output.resolve() == path.resolve():
        raise ValueError(f"{output} is the chapter itself: name another notebook to write")
    partial = files.claim(output).with_suffix(".partial.ipynb")
    try:
        # It logs errors only: its warnings would break the bar.
        how = {"kernel_name": "python3", "extra_arguments": ["--IPKernelApp.log_level=40"]}
        kernel = _ForkedKernel if forked and sys.platform == "linux" else _Kernel
        how |= {"kernel_manager_class": kernel, "cwd": cwd, "progress_bar": progress}
        nb = papermill.execute_notebook(_with_values(nb, given), partial, **how)
    except papermill.PapermillExecutionError as error:
        lines = "\n".join(error.traceback)[-3000:]
        source = "\n".join(f"    | {line}" for line in error.source.splitlines())
        message = f"{path}: cell {error.exec_count} failed\n{source}\n{lines}\nso far: {partial}"
        raise ChapterError(message, partial) from None
    os.replace(partial, output)
    return nb


def _value(text: str, parameter: Parameter | None) -> object:
    """A command-line word as the declared type: text stays text, the rest is a Python literal, or of the wrong type."""
    if parameter is not None and parameter.inferred_type_name != "str":
        with suppress(ValueError, SyntaxError):
            return ast.literal_eval(text)
    return text


def main(argv: list[str] | None = None) -> None:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m icm_helpers.notebooks", description="Execute one chapter.")
    parser.add_argument("chapter", type=Path)
    parser.add_argument("output", type=Path, nargs="?", help="the executed notebook, .ipynb")
    parser.add_argument("-p", "--parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--help-notebook", action="store_true", help="list the chapter's parameters and stop")
    args = parser.parse_args(argv)
    try:
        known = parameters(read(args.chapter))
        if args.help_notebook:
            for p in known.values():
                print(f"{p.name}: {p.inferred_type_name} = {p.default:<12} {p.help}")
            return
        if args.output is None or args.output.suffix != ".ipynb":
            parser.error("name the notebook to write, ending in .ipynb")
        execute(args.chapter, args.output, {name: _value(text, known.get(name)) for name, text in args.parameters})
    except (OSError, ValueError, TypeError, ChapterError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
