"""``python -m lightning_bpd``: the command line, as ``train.py`` and ``lightning-bpd`` start it."""

from lightning_bpd.cli import main

if __name__ == "__main__":  # processes that a command starts import this file
    main()
