"""fit, validate, test and predict: LightningCLI with run folders and checkpoints that behave."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities import rank_zero_only

# Short class names in configuration files resolve for imported classes only.
import lightning_bpd.datamodules
import lightning_bpd.training  # noqa: F401
from lightning_bpd.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from lightning_bpd.cli.arguments import expand_data_folder
from lightning_bpd.cli.run_folder import checkpoint_to_measure, checkpoint_to_resume, run_folder, set_aside
from lightning_bpd.interfaces import InputError
from lightning_bpd.tracking.config_file import SaveConfig
from lightning_bpd.tracking.metrics_file import MetricsFile

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = Path(__file__).parents[2] / "configs" / "default.yaml"


def run(args: list[str], default_config: Path = DEFAULT_CONFIG) -> CommandLine:
    """Run one of Lightning's subcommands.

    Args:
        args: The subcommand and its options.
        default_config: The file under all ``--config`` files.

    Raises:
        InputError: If the user asked for something that cannot be.
    """
    if not default_config.is_file():
        raise InputError(
            f"{default_config} is missing: training runs from a checkout of the project, "
            "installed with pip install -e ."
        )
    parser_options = {"default_config_files": [str(default_config)], "exit_on_error": False}
    return CommandLine(
        model_class=LightningModule,
        datamodule_class=LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=SaveConfig,
        seed_everything_default=1,
        auto_configure_optimizers=False,
        parser_kwargs={
            "exit_on_error": False,
            **{command: dict(parser_options) for command in CommandLine.subcommands()},
        },
        args=expand_data_folder(args),
    )


class CommandLine(LightningCLI):
    """Everything of a run lives in ``<runs>/<experiment>``."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options of our own beside Lightning's."""
        parser.add_argument("--experiment", type=str, default="default", help="Name of the run and of its folder.")
        parser.add_argument("--runs", type=str, default="runs", help="Folder that holds the folders of all runs.")
        parser.add_argument(
            "--wandb",
            type=Literal["offline", "online", "disabled"],
            default="offline",
            help="Whether W&B writes to the run's folder only, sends to its server too, or stays out.",
        )
        parser.add_lightning_class_args(BestCheckpoint, "best_checkpoint")
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; a run that is resumed or measured starts from its own configuration, which files and flags override."""
        assert isinstance(args, list)
        self.config = parser.parse_args(args)
        stored = self._folder() / "config.yaml"
        resumes = self.config.subcommand != "fit" or self._options()["ckpt_path"] in ("last", "best")
        if resumes and stored.is_file():
            self.config = parser.parse_args([args[0], "--config", str(stored), *args[1:]])

    def _parse_ckpt_path(self) -> None:
        # Lightning would let the hyper-parameters inside the checkpoint override the command line.
        pass

    def before_instantiate_classes(self) -> None:
        """Settle the run's folder and the checkpoint, before anything is written."""
        options, folder = self._options(), self._folder()
        if self.subcommand != "fit":
            checkpoint = checkpoint_to_measure(folder, options["ckpt_path"])
            logger.info("Measuring %s", checkpoint)
            options["ckpt_path"] = str(checkpoint)
        elif options["ckpt_path"] is not None:
            options["ckpt_path"] = str(checkpoint_to_resume(folder, options["ckpt_path"]))
        elif rank_zero_only.rank == 0 and not options["trainer"]["fast_dev_run"]:
            kept = set_aside(folder)
            if kept is not None:
                logger.info("Kept the earlier run as %s (--ckpt_path last would have resumed it)", kept)
        options["trainer"]["default_root_dir"] = str(folder)

    def instantiate_trainer(self, **kwargs: object) -> object:
        """Add the loggers, unless the configuration brings its own or wants none."""
        if self.config_init[self.subcommand]["trainer"]["logger"] in (None, True):
            kwargs["logger"] = [MetricsFile(self._folder())] if self.subcommand == "fit" else False
        return super().instantiate_trainer(**kwargs)

    def _options(self) -> dict:
        return self.config[self.config.subcommand]

    def _folder(self) -> Path:
        return run_folder(self._options()["runs"], self._options()["experiment"])
