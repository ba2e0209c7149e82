"""The command line: the only reader of configuration."""

from lightning_bpd.cli.entry import main

__all__ = ["main"]
