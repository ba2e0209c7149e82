"""Functions of tensors that are compiled ahead of time and kept on disk (torch.export and AOTInductor)."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

logger = logging.getLogger(__name__)

# The compiled code holds no weights: they are given to it, and models of one shape share it.
_OPTIONS = {"aot_inductor.package_constants_in_so": False}


def code_folder() -> Path:
    """The folder of compiled code, which only the user may read and write: loading code runs it."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(caches, "lightning_bpd", "compiled")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def missing_compiler() -> str | None:
    """Return why nothing can be compiled on this machine; None if all is there."""
    # Not above: the compiler takes a second to import.
    from torch._inductor import cpp_builder

    try:
        cpp_builder.get_cpp_compiler()
    except RuntimeError:
        return "there is no C++ compiler, such as g++"
    return None


class Compiled:
    """A compiled function of lists of tensors, which may change their content.

    Args:
        function: What to compile. It uses no tensors but its arguments and those of ``owners``.
        owners: The modules and other objects that hold the weights. Other parameters in their place are not noticed.
        example: The arguments of a call, lists of tensors.
        dynamic: The dimensions of each tensor of ``example`` that may have another size in other calls.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        owners: Sequence[object],
        example: Sequence[Sequence[Tensor]],
        dynamic: Sequence[Sequence[Sequence[int]]],
    ) -> None:
        import torch._inductor

        # Tensors that were made in inference mode cannot be traced.
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            # torch warns of its own code.
            warnings.simplefilter("ignore", FutureWarning)
            arguments = tuple([_traceable(tensor) for tensor in part] for part in example)
            shapes = tuple(
                [dict.fromkeys(dimensions, torch.export.Dim.DYNAMIC) for dimensions in part]
                for part in dynamic
            )
            traced = _Traced(function, owners)
            # Before the export, which leaves copies of them in the module.
            self._places = [(*place, place[0][place[1]]) for place in traced.places]
            program = torch.export.export(
                traced, arguments, dynamic_shapes={"arguments": shapes}, strict=False
            )
            path = code_folder() / f"{_key(program)}.pt2"
            if not path.exists():
                _compile(program, path)
            package = torch._inductor.aoti_load_package(str(path), run_single_threaded=True)
        weights = {**program.state_dict, **program.constants}
        # Kept, because the compiled code only has their addresses.
        self._weights = {name: weights[name].detach() for name in package.get_constant_fqns()}
        package.load_constants(self._weights, check_full_update=True, user_managed=True)
        self._run = package.loader.run

    @property
    def current(self) -> bool:
        """Whether the owners' plain attributes are still the tensors that the code knows: a table may have grown."""
        return all(attributes[name] is value for attributes, name, value in self._places)

    def __call__(self, *arguments: Sequence[Tensor]) -> list[Tensor]:
        """Call the function; returns the tensors that it returns, in order."""
        return self._run([tensor for part in arguments for tensor in part])


class _Traced(nn.Module):
    """A function as a module that owns all tensors which the function uses, so that they are weights in a trace."""

    def __init__(self, function: Callable[..., Any], owners: Sequence[object]) -> None:
        super().__init__()
        self._function = function
        seen: set[int] = set()
        # Modules themselves, and the places of other tensors, or tuples of tensors, as (attributes, name).
        found = [each for owner in owners for each in _found(owner, seen)]
        self.parts = nn.ModuleList([each for each in found if isinstance(each, nn.Module)])
        self.places = [each for each in found if not isinstance(each, nn.Module)]
        tensors, self._structure = tree_flatten([attributes[name] for attributes, name in self.places])
        self._count = len(tensors)
        for number, tensor in enumerate(tensors):
            self.register_buffer(f"held_{number}", _traceable(tensor, copy=False))

    def forward(self, *arguments: Sequence[Tensor]) -> Any:
        before = [attributes[name] for attributes, name in self.places]
        held = tree_unflatten(
            [getattr(self, f"held_{number}") for number in range(self._count)], self._structure
        )
        self._put(held)
        try:
            return self._function(*arguments)
        finally:
            self._put(before)

    def _put(self, values: Sequence[Any]) -> None:
        for (attributes, name), value in zip(self.places, values, strict=True):
            attributes[name] = value


def _found(owner: object, seen: set[int]) -> Iterator[Any]:
    """The outermost modules of an object, and the places of the tensors that it holds as plain attributes."""
    if id(owner) in seen or not hasattr(owner, "__dict__"):
        return
    seen.add(id(owner))
    if isinstance(owner, nn.Module):
        yield owner
        for module in owner.modules():
            seen.add(id(module))
            yield from ((vars(module), name) for name, each in vars(module).items() if _of_tensors(each))
        return
    for name, value in vars(owner).items():
        if _of_tensors(value):
            yield vars(owner), name
        elif type(value).__module__.partition(".")[0] == "lightning_bpd":
            yield from _found(value, seen)


def _of_tensors(value: object) -> bool:
    """Whether a value is a tensor or a tuple of tensors."""
    parts = value if isinstance(value, tuple) and value else (value,)
    return all(isinstance(part, Tensor) for part in parts)


def _traceable(tensor: Tensor, copy: bool = True) -> Tensor:
    """A tensor of the same shape that was not made in inference mode; another one of unset content with ``copy``."""
    if tensor.is_inference():
        return tensor.clone()
    return torch.empty_like(tensor) if copy else tensor


def _compile(program: torch.export.ExportedProgram, path: Path) -> None:
    logger.info(
        "Compiling, once for this machine and this shape of model; it takes about a quarter of a minute"
    )
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = torch._inductor.aoti_compile_and_package(
            program, package_path=str(Path(folder, path.name)), inductor_configs=dict(_OPTIONS)
        )
        os.replace(made, path)
    logger.info("Compiled in %.0f s; kept as %s", time.monotonic() - started, path)


def _key(program: torch.export.ExportedProgram) -> str:
    """A name for the code of a program on this machine, without its weights."""
    shapes = [(node.name, str(node.meta["val"])) for node in program.graph.nodes if node.op == "placeholder"]
    ranges = sorted((str(symbol), str(each)) for symbol, each in program.range_constraints.items())
    weights = {
        name: (each.shape, each.stride(), each.dtype, each.device)
        for name, each in {**program.state_dict, **program.constants}.items()
    }
    try:
        processor = next(
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")
        )
    except (OSError, StopIteration):
        processor = platform.processor()
    code = program.graph_module.code
    known = (code, shapes, ranges, weights, _OPTIONS, processor, torch.__version__, torch.get_num_threads())
    return hashlib.sha256(repr(known).encode()).hexdigest()[:32]
