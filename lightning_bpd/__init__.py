"""Training, decoding and measuring blockwise parallel decoding models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_bpd.saved.generation import blockwise, jacobi
    from lightning_bpd.saved.translation import Translator, load

__all__ = ["Translator", "blockwise", "jacobi", "load"]


def __getattr__(name: str) -> Any:
    # On first use, so that the command line can show its help without waiting for torch.
    if name in __all__:
        from lightning_bpd.saved import generation, translation

        return getattr(generation if name in ("blockwise", "jacobi") else translation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
