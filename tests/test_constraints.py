"""constraints.txt: versions within the ranges of pyproject.toml, for all that an installation brings."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINNED = {canonicalize_name(name): version for name, version in (line.split("==") for line in LINES)}


def of_the_project():
    extras = PROJECT["optional-dependencies"].values()
    requirements = map(Requirement, [*PROJECT["dependencies"], *(line for extra in extras for line in extra)])
    return [each for each in requirements if each.name not in (PROJECT["name"], "torch")]


def brought_by(requirement):
    """What an installed package requires, if it is of the pinned version."""
    try:
        found = importlib.metadata.distribution(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return []
    if found.version != PINNED.get(canonicalize_name(requirement.name)):
        return []
    extras = requirement.extras or {""}
    return [
        each
        for each in map(Requirement, found.requires or [])
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras)
    ]


def test_each_line_is_one_version_of_a_package():
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in LINES)
    assert len(PINNED) == len(LINES)


def test_the_versions_are_within_the_ranges_of_the_project():
    for each in of_the_project():
        assert each.specifier.contains(PINNED[canonicalize_name(each.name)]), each


def test_what_the_packages_need_is_pinned_too():
    # torch is the user's own choice, and so are the libraries that torch alone needs.
    seen, left = set(), of_the_project()
    while left:
        each = left.pop()
        key = canonicalize_name(each.name), frozenset(each.extras)
        if key in seen or each.name == "torch":
            continue
        seen.add(key)
        assert key[0] in PINNED, each
        assert each.specifier.contains(PINNED[key[0]], prereleases=True), each
        left += brought_by(each)
    assert len(seen) > 50


def test_torch_and_what_it_alone_needs_are_not_pinned():
    assert not {"torch", "setuptools", "triton", "pip"} & set(PINNED)
    assert not [name for name in PINNED if name.startswith(("nvidia", "cuda"))]


def test_the_ways_to_install_use_the_constraints():
    for file in ("Makefile", "README.md", "benchmarks/README.md"):
        text = (ROOT / file).read_text()
        lines = [line for line in text.splitlines() if re.search(r'(pip install|INSTALL\)).* -e "?\.', line)]
        assert lines, file
        assert all("-c constraints.txt" in line or "--upgrade" in line for line in lines), lines
