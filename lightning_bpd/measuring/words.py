"""What measurements of text and of images are called, in tables, figures and logs. No torch."""

from __future__ import annotations

from typing import NamedTuple


class Quality(NamedTuple):
    """A measure of quality; more is better."""

    label: str
    unit: str = ""
    digits: int = 2
    """behind the point"""

    @property
    def title(self) -> str:
        """With its unit: ``PSNR (dB)``."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


QUALITIES = {
    "bleu": Quality("BLEU"),
    "chrf": Quality("chrF"),
    "psnr": Quality("PSNR", "dB"),
    "ssim": Quality("SSIM", digits=3),
}
"""by the names that codecs give them"""


class Kind(NamedTuple):
    """What a model of one kind is measured on, and by."""

    row: str
    a_row: str
    rows: str
    qualities: tuple[str, ...]
    """names of ``QUALITIES``; the first is the principal one, the others may be missing"""
    test: str
    """by which differences of quality are said to be significant"""
    table: str
    """the paper's table of quality and block sizes"""
    columns: tuple[tuple[str, str], ...]
    """its columns: regime and data"""

    @property
    def quality(self) -> Quality:
        """The principal one."""
        return QUALITIES[self.qualities[0]]


KINDS = {
    "text": Kind(
        "sentence",
        "a sentence",
        "sentences",
        ("bleu", "chrf"),
        "sacreBLEU's paired bootstrap",
        "Table 1",
        (("frozen", "gold"), ("frozen", "distilled"), ("joint", "gold"), ("joint", "distilled")),
    ),
    "images": Kind(
        "image",
        "an image",
        "images",
        ("psnr", "ssim"),
        "paired bootstrap over images",
        "Table 2",
        (("frozen", "gold"), ("joint", "gold")),
    ),
}
"""by the names that codecs have"""
