"""Who may import whom, and who may ask for the class of a network or codec."""

import ast
from pathlib import Path

import pytest

import lightning_bpd

PACKAGE = Path(lightning_bpd.__file__).parent
FLOORS = [
    {"interfaces", "faults", "files", "kernels", "network", "orders", "progress", "rows", "timing"},
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


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


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
    room = room_of(path)
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


# Elsewhere the contracts of network.py and codecs/codec.py say all there is to know of a network or a codec.
DEFINING = ("network", "models", "adapters", "codecs")


DEFINED = {
    node.name
    for path in MODULES
    if room_of(path) in DEFINING
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.ClassDef)
}


@pytest.mark.parametrize(
    "path", [path for path in MODULES if room_of(path) not in DEFINING], ids=lambda path: path.stem
)
def test_no_class_of_a_network_or_codec_is_asked_for(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            asked = {getattr(each, "id", getattr(each, "attr", None)) for each in ast.walk(node.args[1])}
            assert not asked & DEFINED, f"line {node.lineno}: {ast.unparse(node)}"
