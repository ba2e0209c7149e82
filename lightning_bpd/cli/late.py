"""The functions of commands, without the imports that only running them needs."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def late(command: str) -> Callable[..., Any]:
    """A command's function, whose module is imported when the function is called.

    The parser of options needs a signature and a docstring. They are compiled from the module's source, together with
    the statements before the function that bind a name of the signature. So ``--help`` and a wrong option are
    answered without importing torch, unless the signature itself names something of a module that imports it.

    Args:
        command: The name of a module in ``lightning_bpd.cli``, and of the function in it.
    """
    name = f"lightning_bpd.cli.{command}"
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    statements = ast.parse(Path(spec.origin).read_bytes()).body
    function = next(node for node in statements if isinstance(node, ast.FunctionDef) and node.name == command)
    if function.args.kwarg is not None:
        # The parser looks in the function's body for what its ** may hold.
        return getattr(import_module(name), command)
    needed = _names(function.args, ast.Load)
    kept: list[ast.stmt] = [function]
    for node in reversed(statements[: statements.index(function)]):
        if _bound(node) & needed:
            kept.insert(0, node)
            needed |= _names(node, ast.Load)
    call = ast.parse(f"return import_module({name!r}).{command}(**locals())").body
    function.body, function.returns = function.body[:1] + call, None
    scope: dict[str, Any] = {"__name__": __name__, "import_module": import_module}
    # Without this file's own annotations as strings, for which the parser would import the module.
    exec(compile(ast.Module(kept, []), spec.origin, "exec", dont_inherit=True), scope)
    return scope[command]


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement of a module binds."""
    imported = {alias.asname or alias.name for alias in getattr(statement, "names", ())}
    return imported | _names(statement, ast.Store) | {getattr(statement, "name", "")}


def _names(node: ast.AST, context: type[ast.expr_context]) -> set[str]:
    return {
        each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, context)
    }
