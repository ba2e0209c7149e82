"""fit, validate, test and predict: LightningCLI with run folders and resumable checkpoints."""

from __future__ import annotations

import json
import logging
import sys
from inspect import isabstract
from typing import Any, Literal

from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console

# Short class names in configuration files resolve for imported classes only.
import lightning_bpd.datamodules  # noqa: F401
from lightning_bpd.callbacks.blockwise_decoding import BlockwiseDecoding
from lightning_bpd.callbacks.checkpoints import BestCheckpoint, LastCheckpoint, newest_checkpoint
from lightning_bpd.callbacks.generated_images import GeneratedImages
from lightning_bpd.callbacks.interruption import Interruption
from lightning_bpd.callbacks.panels import Panels
from lightning_bpd.callbacks.progress import Overview, progress_bar
from lightning_bpd.callbacks.reconstructions import Reconstructions
from lightning_bpd.callbacks.samples import Predictions, Samples
from lightning_bpd.callbacks.throughput import Throughput
from lightning_bpd.cli.arguments import (
    drop_repeated,
    expand_data_folder,
    names_model,
    naming_options,
    refuse_decode_of_model,
    take_tokenizers_of_base,
)
from lightning_bpd.cli.finish import finish
from lightning_bpd.cli.finish_generation import finish_generation
from lightning_bpd.cli.finish_tokenizer import finish_tokenizer
from lightning_bpd.cli.own_text import use_own_text
from lightning_bpd.cli.quiet import keep_quiet
from lightning_bpd.cli.run_folder import (
    checkpoint_to_measure,
    checkpoint_to_resume,
    folder_of,
    is_finished,
    is_of_run,
    is_requeued,
    lock,
    mark_finished,
    run_folder,
    set_aside,
)
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.files import shipped, write_atomically
from lightning_bpd.interfaces import InputError
from lightning_bpd.tracking.config_file import SaveConfig
from lightning_bpd.tracking.metrics_file import MetricsFile
from lightning_bpd.tracking.provenance import provenance
from lightning_bpd.tracking.weights_and_biases import wandb_logger
from lightning_bpd.training import DecoderTraining, ImageGeneration, TokenizerTraining
from lightning_bpd.training.step_loss import close_connections

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = shipped("configs/default.yaml")


def run(args: list[str]) -> CommandLine:
    """Run one of Lightning's subcommands.

    Args:
        args: The subcommand and its options.

    Raises:
        InputError: The options or the configuration are invalid.
    """
    keep_quiet()
    # No abbreviations: code that handles the full name of an option would miss them.
    options = {"exit_on_error": False, "allow_abbrev": False}
    of_command = {"default_config_files": [str(DEFAULT_CONFIG)], **options}
    try:
        return CommandLine(
            model_class=LightningModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveConfig,
            seed_everything_default=1,
            auto_configure_optimizers=False,
            parser_class=StrictParser,
            parser_kwargs={**options, **dict.fromkeys(CommandLine.subcommands(), of_command)},
            args=expand_data_folder(args, class_names(LightningDataModule)),
        )
    except MisconfigurationException as error:
        raise InputError(str(error)) from error


def class_names(kind: type) -> set[str]:
    """Return the short names of a class's subclasses that can be instantiated."""
    subclasses: list[type] = kind.__subclasses__()
    own = {each.__name__ for each in subclasses if not isabstract(each)}
    return own.union(*map(class_names, subclasses))


class StrictParser(LightningArgumentParser):
    """A parser that refuses null for an option that cannot be null."""

    def validate(self, *given: Any, **options: Any) -> None:
        """Validate values that are null, too."""
        super().validate(*given, **{**options, "skip_unset": False})


class CommandLine(LightningCLI):
    """LightningCLI that keeps all files of a run in ``<runs>/<experiment>``."""

    def __deepcopy__(self, memo: dict[int, object]) -> CommandLine:
        """Return itself: weight averaging copies the module, whose optimiser factory refers to the command line."""
        return self

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our options to Lightning's."""
        parser.add_argument(
            "--experiment", type=str, default="default", help="Name of the run and of its folder."
        )
        parser.add_argument(
            "--runs", type=str, default="runs", help="Folder that holds the folders of all runs."
        )
        parser.add_argument(
            "--wandb",
            type=Literal["offline", "online", "disabled"],
            default="offline",
            help="Whether W&B writes to the run's folder only, sends to its server too, or stays out.",
        )
        # A group of its own, so that one checkpoint can be measured under many rules.
        parser.add_class_arguments(DecodingOptions, "decode")
        parser.link_arguments("decode", "model.init_args.decode")
        # Overview logs the number of parameters instead.
        parser.set_defaults({"trainer.enable_model_summary": False})
        parser.add_lightning_class_args(BlockwiseDecoding, "blockwise")
        parser.add_lightning_class_args(BestCheckpoint, "best_checkpoint")
        parser.add_lightning_class_args(Throughput, "throughput")
        parser.add_lightning_class_args(Samples, "samples")
        parser.add_lightning_class_args(Panels, "panels")
        parser.add_lightning_class_args(Reconstructions, "reconstructions")
        parser.add_lightning_class_args(GeneratedImages, "generated_images")
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        parser.add_lightning_class_args(Interruption, "interruption")
        parser.add_lightning_class_args(Predictions, "predictions")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line.

        A run that is resumed or measured starts from its own configuration; files and flags override it.
        """
        assert isinstance(args, list)
        refuse_decode_of_model(args)
        # Find the run first: the other options may fit its configuration and not the default configuration.
        self.config = parser.parse_args([*args[:1], *naming_options(args[1:])])
        options = self._options()
        checkpoint = options["ckpt_path"]
        self.folder = run_folder(options["runs"], options["experiment"])
        if self.config.subcommand != "fit":
            self.folder = folder_of(checkpoint) or self.folder
        # One command starts a run and resumes it, also when SLURM requeues the job.
        self.goes_on = self.config.subcommand == "fit" and (
            checkpoint == "auto" or (checkpoint is None and is_requeued(self.folder))
        )
        if self.goes_on:
            newest = newest_checkpoint(self.folder)
            checkpoint = None if newest is None else str(newest)
        # A checkpoint of another run starts a new run here.
        self.resumes = self.config.subcommand == "fit" and is_of_run(self.folder, checkpoint)
        stored = self.folder / "config.yaml"
        starts_from_run = (self.resumes or self.config.subcommand != "fit") and stored.is_file()
        own = ["--config", str(stored)] if starts_from_run else []
        demo = DEFAULT_CONFIG.with_name("demo.yaml")
        if self.config.subcommand == "fit" and not own and demo.is_file() and not names_model(args):
            args = [*args[:1], "--config", str(demo), *args[1:]]
        self.config = parser.parse_args([*args[:1], *own, *args[1:]])
        if own:
            drop_repeated(self._options(), args)
        self._options()["ckpt_path"] = checkpoint

    def _parse_ckpt_path(self) -> None:
        # Lightning would let the hyper-parameters inside the checkpoint override the command line.
        pass

    def before_instantiate_classes(self) -> None:
        """Determine the run's folder and the checkpoint, before any file is written."""
        options, folder = self._options(), self.folder
        if self.goes_on and is_finished(folder, options["trainer"]):
            logger.info("%s is finished: nothing is left to do", folder)
            sys.exit(0)
        model, data = options["model"]["init_args"], options["data"]["init_args"]
        take_tokenizers_of_base(model, data)
        checkpoint = None
        if self.subcommand != "fit":
            checkpoint = checkpoint_to_measure(folder, options["ckpt_path"])
            logger.info("Using %s", checkpoint)
        elif options["ckpt_path"] is not None:
            checkpoint = checkpoint_to_resume(folder, options["ckpt_path"])
            logger.info("Going on from %s", checkpoint)
        if self._writes():
            self.lock = lock(folder)
        if self.subcommand == "fit":
            use_own_text(model, data, options["decode"])
        options["ckpt_path"] = None if checkpoint is None else str(checkpoint)
        options["trainer"]["default_root_dir"] = str(folder)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add loggers and a progress bar, unless the configuration names its own or disables them.

        An earlier run makes way here, after model and data have accepted their settings.
        """
        if self._writes() and not self.resumes and (kept := set_aside(self.folder)):
            logger.info("Kept the earlier run as %s (--ckpt_path last would have resumed it)", kept)
        options = self.config_init[self.subcommand]["trainer"]
        if options["logger"] in (None, True):
            kwargs["logger"] = self._loggers()
        callbacks = [*(options["callbacks"] or []), Overview()]
        has_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
        if options["enable_progress_bar"] is not False and not has_bar:
            callbacks.append(progress_bar())
        kwargs["callbacks"] = callbacks
        return super().instantiate_trainer(**kwargs)

    def after_fit(self) -> None:
        """Make the finished model and print the result."""
        # The other ranks end here, so no later call may wait for them.
        close_connections()
        if self._writes():
            if isinstance(self.model, DecoderTraining):
                finish(self.trainer, Console())
            elif isinstance(self.model, TokenizerTraining):
                finish_tokenizer(self.trainer, Console())
            elif isinstance(self.model, ImageGeneration):
                finish_generation(self.trainer, Console())
        if self._writes():
            mark_finished(self.folder, self._options()["trainer"])

    def after_validate(self) -> None:
        """Write the measurement."""
        self._write_measurement("validation")

    def after_test(self) -> None:
        """Write the measurement."""
        self._write_measurement("test")

    def _write_measurement(self, part: str) -> None:
        if not self.trainer.is_global_zero:
            return
        options = self._options()
        measured = {
            "metrics": {name: float(value) for name, value in self.trainer.callback_metrics.items()},
            "bleu_signature": getattr(self.model, "bleu_signature", None),
            "decode": options["decode"].as_dict(),
            "checkpoint": options["ckpt_path"],
            "provenance": provenance(),
        }
        decode = options["decode"]
        label = decode["decoder"]
        if label == "blockwise":
            label = f"blockwise_{decode['block_size'] or 'all'}_{decode['acceptance']}"
        path = self.folder / f"{part}_{label}.json"
        write_atomically(path, json.dumps(measured, indent=2) + "\n")
        logger.info("Written to %s", path)

    def _loggers(self) -> list[Logger] | bool:
        if self.subcommand != "fit":
            return False
        loggers: list[Logger] = [MetricsFile(self.folder)]
        if self._options()["wandb"] != "disabled" and self._writes():
            wandb = wandb_logger(self.folder, self._options()["wandb"])
            loggers += [wandb] if wandb is not None else []
        return loggers

    def _writes(self) -> bool:
        """Whether this process writes the run's folder. It does not need a trainer."""
        trial = self._options()["trainer"]["fast_dev_run"]
        first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
        return self.config.subcommand == "fit" and not trial and first

    def _options(self) -> dict[str, Any]:
        return self.config[self.config.subcommand]
