"""Short forms on the command line."""

from __future__ import annotations

from pathlib import Path


def expand_data_folder(args: list[str]) -> list[str]:
    """Let ``--data DIR`` mean ``--data.init_args.folder DIR`` when DIR is an existing folder.

    Anything else after ``--data`` names a data class, as the configuration files do with ``class_path``.
    """
    expanded: list[str] = []
    for position, argument in enumerate(args):
        if argument == "--data" and position + 1 < len(args) and Path(args[position + 1]).is_dir():
            expanded.append("--data.init_args.folder")
        elif argument.startswith("--data=") and Path(argument.removeprefix("--data=")).is_dir():
            expanded.append(f"--data.init_args.folder={argument.removeprefix('--data=')}")
        else:
            expanded.append(argument)
    return expanded
