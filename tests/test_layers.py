"""Who may import whom: from a lower floor only, and Lightning and transformers where they belong."""

import ast
from pathlib import Path

import pytest

import lightning_bpd

PACKAGE = Path(lightning_bpd.__file__).parent
FLOORS = [
    {"interfaces", "faults", "files", "kernels", "progress", "rows", "timing"},
    {"models", "adapters", "decoding", "metrics"},
    {"codecs", "drafters"},
    {"saved"},
    {"datamodules", "training", "measuring", "tracking"},
    {"callbacks", "distillation", "grid", "report"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")
)


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    floor = FLOOR[room]
    for name in imported(path):
        top, *rest = name.split(".")
        # What all share imports nothing of ours.
        if (
            top == "lightning_bpd"
            and rest
            and rest[0] != room
            and (room == "interfaces" or rest[0] != "interfaces")
        ):
            assert FLOOR[rest[0]] < floor, f"{room} imports {rest[0]}"
        if top == "pytorch_lightning":
            assert floor >= FLOOR["training"], f"{room} imports Lightning"
        if top == "transformers":
            assert room == "adapters", f"{room} imports transformers"
