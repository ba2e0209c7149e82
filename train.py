"""Train and use models: python train.py --help."""

from lightning_bpd.cli import main

if __name__ == "__main__":  # processes that a command starts import this file
    main()
