"""The house holds together: one list of packages, pins without hosts, small data, no notebooks with outputs in git."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from pybtex.database import parse_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
CONDA_NAMES = {"torch": "pytorch"}  # where conda calls a package otherwise
MB = 1_000_000


def pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def requirements() -> dict[str, Requirement]:
    listed = [*PROJECT["dependencies"], *(item for extra in EXTRAS.values() for item in extra)]
    return {req.name: req for req in map(Requirement, listed)}


def conda_packages() -> dict[str, str]:
    return {name: version for name, _, version in (item.partition("=") for item in CONDA if isinstance(item, str))}


def pip_list() -> list[str]:
    return next(item["pip"] for item in CONDA if isinstance(item, dict))


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_conda_users_get_the_same_packages_as_make_and_every_extra():
    options = {option: value for option, _, value in (line.partition(" ") for line in pip_list()) if option[0] == "-"}
    assert options["--constraint"] == "constraints.txt"
    installed = re.fullmatch(r"\.\[(.*)\]", options["--editable"])
    assert installed and sorted(installed[1].split(",")) == sorted(EXTRAS)


def test_conda_takes_packages_at_the_versions_and_in_the_ranges_of_the_project():
    conda = conda_packages()
    assert conda["python"] in SpecifierSet(PROJECT["requires-python"])
    for pin in pins():
        version = conda.get(CONDA_NAMES.get(pin.name, pin.name))
        if version:
            assert next(iter(pin.specifier)).version.split(".")[: version.count(".") + 1] == version.split("."), pin
    assert {"torch", "torchvision"} <= {pin.name for pin in pins()}


def test_what_has_no_package_comes_from_its_own_repository_at_a_full_commit():
    found = [re.fullmatch(r"(\w+) @ git\+https://github\.com/(.+)\.git@[0-9a-f]{40}", line) for line in pip_list()[2:]]
    known = [("detectron2", "facebookresearch/detectron2"), ("panopticapi", "cocodataset/panopticapi")]
    assert [match.groups() for match in found] == known, "whatever has a package belongs into pyproject.toml"


def test_every_requirement_is_pinned_within_its_range():
    pinned: dict[str, list[Requirement]] = {}
    for pin in pins():
        pinned.setdefault(pin.name, []).append(pin)
    for name, req in requirements().items():
        assert name in pinned, f"{name} has no pin: run `make pins`"
        for pin in pinned[name]:
            version = next(iter(pin.specifier)).version
            assert req.specifier.contains(version), f"{pin} is outside {req}: run `make pins`"


def test_pins_are_exact_and_name_no_place():
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"://|@|--|sha256|file:", text)
    assert all(re.fullmatch(r"==[^*]+", str(pin.specifier)) for pin in pins())


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split())
    listed = subprocess.run(
        ["make", "-s", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[1] for line in listed.splitlines()} == targets
    assert {"book", "test", "env", "lab", "help"} <= targets


def test_ci_calls_make_and_nothing_else():
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert {"make test", "make book"} <= set(commands)
    assert all(command.startswith("make ") for command in commands)


def test_every_page_of_the_contents_exists_and_the_other_way_round():
    book = ROOT / "book"
    toc = yaml.safe_load((book / "_toc.yml").read_text())
    named = {toc["root"], *(page["file"] for part in toc["parts"] for page in part["chapters"])}
    assert named == {path.relative_to(book).with_suffix("").as_posix() for path in book.rglob("*.md")}


def test_the_first_page_cites_the_book_as_its_citation_file_does():
    citation, page = yaml.safe_load((ROOT / "CITATION.cff").read_text()), (ROOT / "book" / "intro.md").read_text()
    assert f"{citation['authors'][0]['name']}. *{citation['title']}.* Version {citation['version']}" in page


def test_every_reference_can_be_followed_and_none_is_named_as_another():
    entries = parse_file(ROOT / "book" / "references.bib").entries
    named = [(e.persons["author"][0].last_names, e.fields["year"]) for e in entries.values() if "year" in e.fields]
    assert len(named) == len(set(map(str, named)))
    blind = {key for key, e in entries.items() if not {"doi", "eprint", "url"} & {*e.fields}}
    assert blind == {"iino_objectness"}, "no place was found where that one is published"


def test_drawings_are_what_their_program_draws():
    spec = importlib.util.spec_from_file_location("draw", ROOT / "book" / "figures" / "draw.py")
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    found = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "book" / "figures").glob("*.svg")}
    assert found == draw.drawings()


def test_no_executed_notebook_is_in_git():
    assert not [path for path in tracked() if path.suffix == ".ipynb"]


def test_committed_data_stay_small():
    sizes = {path: path.stat().st_size for path in tracked() if (ROOT / "data") in path.parents and path.is_file()}
    assert not [path for path, size in sizes.items() if size > 10 * MB]
    assert sum(size for path, size in sizes.items() if path.parent.name == "checkpoints") <= 40 * MB


def test_no_module_is_long_but_the_one_that_draws_scenes():
    modules = (ROOT / "icm_helpers").rglob("*.py")
    long = {path.stem for path in modules if len(path.read_text(encoding="utf-8").splitlines()) > 600}
    assert long == {"scenes"}
