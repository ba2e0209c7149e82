"""Train and use models: python train.py --help."""

from lightning_bpd.cli import main

main()
