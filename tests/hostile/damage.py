"""Ways in which a file can be damaged or hostile. Each takes a random.Random, so that a seed gives the same again."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2, 3, 7, 10**6, 10**12, 2**63, -(10**18), 10**400, 0.5, -0.5, 1e308, float("inf"),
    float("nan"),
    "", "x", "no", "x" * 5000, "../../escape", "/", "hf:none", "hf:", "\0", "a\nb", "\u2028", "{}", "1", [], {},
    [[]], [None],
    {"a": {}}, [1, "a", {}], ["../../escape"], nested(60), {"class_path": "os.getcwd"}, {"class_path": "x",
    "init_args": 3},
]  # fmt: skip
NAMES = [
    "../../escape.png", "a/../../../escape.png", "..", ".png", ".hidden.png", "a/b/c/d/e.png", "back\\..\\slash.png",
    "n" * 260 + ".png", "line\nfeed.png", "tab\t.png", "quo'te\".png", "-rf.png", "ümläut.png", "\U0001f600.png",
    "a.png",
    "a.bmp", "a.png/b.png", "CON.png", " .png", "a .PNG", "train/x.png", "val/x.png", "test/../../escape.png",
    "~/escape.png",
    "$HOME/escape.png", "a//b.png", "./a.png", "\x1b[31m.png", "a\u202eb.png", "*.png", "__MACOSX/a.png",
]  # fmt: skip
LINES = [
    b"", b" ", b"\t", b"a", b"\0", b"\r", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
    b"\xc0\x80",
    "\u2028\u2029\x85\x0b\x0c".encode(), b"a\rb", b"a\tb\tc", b"{}", b"[" * 20_000, b"9" * 6000, b"word " * 400,
    b"x" * 3000,
    "\U0001f600".encode() * 50, "e\u0301\u200d\u202e\ufeff".encode(), b'{"en": 1, "de": "a"}', 
    b'{"en": "\\ud800", "de": "a"}',
    b'{"messages": [{"role": 1}]}', b'{"translation": {"en": "a"}}', b"<pad></s><s>", "▁▁▁".encode(),
    b"\x1f\x8b\x08\0",
]  # fmt: skip


def damaged_bytes(draw: Random, content: bytes) -> bytes:
    """The bytes with flips, cuts, or something in between."""
    way = draw.randrange(9)
    place = draw.randrange(len(content) + 1)
    if way == 0:
        return b""
    if way == 1:
        return content[:place]
    if way == 2:
        return content[place:]
    if way == 3:
        return draw.randbytes(draw.choice((1, 100, 5000)))
    if way == 4:
        return content[:place] + draw.choice(LINES) + content[place:]
    if way == 5:
        return content + draw.randbytes(64)
    if way == 6:
        return content[:place] + b"\0" * 64 + content[place + 64 :]
    if way == 7:
        return content * 2
    changed = bytearray(content)
    for _ in range(draw.choice((1, 3, 30)) if content else 0):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def damaged_value(draw: Random, value: Any) -> Any:
    """Plain data with another value, or none, somewhere inside."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(sorted(value, key=str))
        if draw.random() < 0.08:
            return {name: each for name, each in value.items() if name != key}
        if draw.random() < 0.05:
            return {**value, draw.choice(("surplus", "", "../escape")): draw.choice(VALUES)}
        return {**value, key: damaged_value(draw, value[key])}
    if isinstance(value, list | tuple) and value and draw.random() < 0.8:
        place = draw.randrange(len(value))
        return [*value[:place], damaged_value(draw, value[place]), *value[place + 1 :]]
    return draw.choice(VALUES)


def damaged_json(draw: Random, content: bytes) -> bytes:
    if draw.random() < 0.05:
        return b"[" * 100_000 if draw.random() < 0.5 else b'{"a":' * 100_000
    return json.dumps(damaged_value(draw, json.loads(content))).encode()


def damaged_lines(draw: Random, content: bytes) -> bytes:
    """Text with hostile lines, or JSON lines of which one is damaged inside."""
    lines = content.split(b"\n")
    for _ in range(draw.choice((1, 1, 4))):
        lines.insert(draw.randrange(len(lines) + 1), draw.choice(LINES))
    ending = draw.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r"))
    return ending.join(lines)


def damaged_yaml(draw: Random, content: bytes) -> bytes:
    return yaml.safe_dump(damaged_value(draw, yaml.safe_load(content))).encode()


def damaged_safetensors(draw: Random, content: bytes) -> bytes:
    """The header's JSON damaged, its length right."""
    (length,) = struct.unpack("<Q", content[:8])
    header = damaged_json(draw, content[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def damaged_checkpoint(draw: Random, path: Path) -> None:
    """Another value somewhere inside, in a file that loads."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    torch.save(damaged_value(draw, content), path)


BY_ENDING: dict[str, Callable[[Random, bytes], bytes]] = {
    ".json": damaged_json,
    ".yaml": damaged_yaml,
    ".safetensors": damaged_safetensors,
    ".en": damaged_lines,
    ".de": damaged_lines,
    ".tsv": damaged_lines,
    ".csv": damaged_lines,
    ".jsonl": damaged_lines,
}


def damage(draw: Random, path: Path) -> None:
    """Damage a file, or one or two files of a folder: their bytes, what they say, or what stands in their place."""
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
        for each in draw.sample(files, min(len(files), draw.choice((1, 1, 1, 2)))):
            damage(draw, each)
        return
    content = path.read_bytes()
    way = draw.random()
    if way < 0.06:
        path.unlink()
        if way < 0.02:
            path.mkdir()
        elif way < 0.03:
            path.symlink_to(path.name)
        elif way < 0.04:
            path.symlink_to("nowhere")
    elif way < 0.6 and path.suffix == ".ckpt":
        damaged_checkpoint(draw, path)
    elif way < 0.7 and path.suffix in BY_ENDING:
        path.write_bytes(BY_ENDING[path.suffix](draw, content))
    else:
        path.write_bytes(damaged_bytes(draw, content))


def copied(path: Path, target: Path) -> Path:
    """A copy of a file or folder that can be damaged."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, target, symlinks=True)
    else:
        shutil.copy(path, target)
    return target


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """What is in a folder: size and time of change of each path, links not followed."""
    found = {}
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(where) / name
            stat = path.lstat()
            found[str(path.relative_to(folder))] = (
                (stat.st_size, stat.st_mtime_ns) if path.is_file() else (0, 0)
            )
    return found
