"""Translating text with a trained model."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightning_bpd.codecs.hugging_face import is_reference
from lightning_bpd.codecs.text import TextualCodec
from lightning_bpd.codecs.tokenizers import TextSide, whole_row
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.interfaces import InputError, TokenRows, check_range
from lightning_bpd.saved.finished_model import GenerativeModel, read_base, read_checkpoint, read_folder
from lightning_bpd.saved.generation import check_first_head, make_generation

logger = logging.getLogger(__name__)

# Source tokens decoded together, padding included; a longer line is decoded alone.
MOST_BATCH_TOKENS = 16_384


def pad(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> TokenRows:
    """Rows of token ids as one batch, padded with zeros at the right."""
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return TokenRows(tokens.to(device), lengths.to(device))


@dataclass(frozen=True, eq=False)
class Translator(GenerativeModel):
    """A model of text: a network with its tokenizers and, if it has them, its block heads; all put into eval mode.

    Raises:
        InputError: The model is not of text, or a tokenizer has another number of pieces than the network has tokens.
    """

    codec: TextualCodec

    def __post_init__(self) -> None:
        network, codec = self.network, self.codec
        if codec.kind != "text":
            raise InputError(f"this is a model of {codec.kind}, which cannot translate")
        if network.vocabularies is not None:
            for (side, tokenizer), tokens in zip(codec.sides.items(), network.vocabularies[:2], strict=True):
                if tokenizer.vocab_size != tokens:
                    raise InputError(
                        f"the {side} tokenizer has {tokenizer.vocab_size} pieces and the model {tokens} {side} "
                        "tokens: they do not belong together; use the tokenizer that the model was trained with"
                    )
        self.to(self.device)

    @property
    def source_tokenizer(self) -> TextSide:
        """What source text is cut with."""
        return self.codec.source

    @property
    def target_tokenizer(self) -> TextSide:
        """What output is put together with."""
        return self.codec.target

    def translate(
        self,
        lines: Sequence[str],
        decoder: str | DecodingOptions = "greedy",
        batch_size: int = 64,
        *,
        first_row: int = 0,
        max_source_length: int = 1024,
        progress: Callable[[int], None] | None = None,
        **settings: Any,
    ) -> list[str]:
        """Translate text, line for line, in the order given.

        Lines of similar length are decoded together. A line of white space gives an empty line.

        Args:
            lines: Source text.
            decoder: ``greedy``, ``beam`` or, for a model with block heads, ``blockwise``; or all DecodingOptions.
            batch_size: Lines decoded together; fewer if they are very long.
            first_row: The number of the first line in its corpus, which selects the noise of sampling.
            max_source_length: Source tokens, end token included, to which longer lines are cut, with a warning.
            progress: Called with the number of lines done after each batch.
            settings: Other arguments of DecodingOptions, such as ``block_size`` and ``extra_length``.

        Raises:
            InputError: An unknown decoder, or a number out of its range.
        """
        given = decoder if isinstance(decoder, DecodingOptions) else DecodingOptions(decoder)  # type: ignore[arg-type]
        options = dataclasses.replace(given, **settings)
        self.check(options)
        outputs = [""] * len(lines)
        numbers = [number for number, line in enumerate(lines) if line.strip()]
        if progress is not None and len(numbers) < len(lines):
            progress(len(lines) - len(numbers))
        wanted = [lines[number] for number in numbers]
        for places, source in self.batches(wanted, batch_size, max_source_length):
            rows = torch.tensor([first_row + numbers[place] for place in places], device=self.device)
            result = self.decode(source, options, rows)
            for place, text in zip(places, self.target_tokenizer.decode(result.rows()), strict=True):
                outputs[numbers[place]] = text
            if progress is not None:
                progress(len(places))
        return outputs

    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        block_size: int | None = None,
        acceptance: str = "exact",
        seed: int | None = None,
        **settings: Any,
    ) -> Any:
        """What transformers' greedy ``generate`` gives for rows of a Hugging Face model's own tokenizer, by blocks.

        Args:
            input_ids: int64 [B, S], sources or prompts, padded at either end, on the model's device.
            attention_mask: [B, S], 0 on padding; nothing is padding if not given, but what ``generate`` itself takes
                for it in prompts.
            block_size: Tokens of a block; as many as the heads were trained for by default.
            acceptance: Which proposals stay; see ``translate``.
            seed: Selects the noise of ``do_sample=True``; drawn from torch's generator if not given.
            settings: Others of ``generate``, such as ``max_new_tokens``, ``max_length``, ``forced_bos_token_id`` and
                ``return_dict_in_generate`` (see ``lightning_bpd.blockwise``). Lengths and end tokens are by default the
                model's own, all of several end tokens.

        Returns:
            int64 [B, L]: start tokens or prompts, what comes after them, and padding.

        Raises:
            InputError: The network is none of Hugging Face, has no block heads, or a setting cannot be honoured.
        """
        network: Any = self.network
        if not network.of_hugging_face:
            raise InputError("generate is for Hugging Face models, and this model takes text: use translate")
        if self.heads is None or self.drafter is None:
            raise InputError("this model has no block heads, which generate needs: use translate")
        check_first_head(self.heads)
        generation = make_generation(network, self.drafter, block_size, acceptance, seed)
        chosen: dict[str, Any] = {"do_sample": False, "num_beams": 1}
        config = copy.deepcopy(settings.pop("generation_config", None))
        if getattr(config, "eos_token_id", None) is None:
            chosen["eos_token_id"] = sorted(network.ends)
        chosen |= settings
        if config is not None:  # transformers deprecates a configuration with settings beside it
            chosen = {"generation_config": config, **config.update(**chosen)}
        return network.model.generate(
            input_ids=input_ids, attention_mask=attention_mask, custom_generate=generation, **chosen
        )

    def batches(
        self, lines: Sequence[str], batch_size: int, max_source_length: int = 1024
    ) -> Iterator[tuple[list[int], TokenRows]]:
        """Lines as batches of like length, ready to decode, with the places of their rows in ``lines``.

        Lines of more than ``max_source_length`` source tokens, end token included, are cut, with a warning.
        """
        check_range(1, batch_size=batch_size)
        limit = self.network.longest_source
        if limit is not None:
            max_source_length = min(max_source_length, limit)
        side = self.source_tokenizer
        encoded = side.encode(list(lines))
        around = len(side.prefix) + len(side.suffix)
        cut = sum(len(row) + around > max_source_length for row in encoded)
        if cut:
            logger.warning("%d lines were cut to %d source tokens", cut, max_source_length)
        rows = [whole_row(side, row, max_source_length) for row in encoded]
        # Long rows first: if memory is short, that shows at once.
        order = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
        first = 0
        while first < len(order):
            # Fewer rows where they are long: the cache grows with rows times length.
            fitting = max(1, MOST_BATCH_TOKENS // len(rows[order[first]]))
            places = order[first : first + min(batch_size, fitting)]
            first += len(places)
            yield places, pad([rows[place] for place in places], self.device)


def load(folder: str | Path, device: str | torch.device = "cpu", base: str | None = None) -> Translator:
    """Load a finished model, or a Hugging Face model as it is.

    Args:
        folder: What a training run or ``export`` wrote, such as ``runs/default/model``; or ``hf:NAME_OR_FOLDER``.
        device: Where to put it.
        base: Where the Hugging Face model is that its heads were trained on, if it has moved: ``hf:NAME_OR_FOLDER``.

    Raises:
        InputError: The folder is not a finished model, is damaged, or is of a newer format; or its heads belong to
            another base.
    """
    model = read_base(folder) if is_reference(folder) else read_folder(folder, base)
    return Translator.of(model).to(device)


def load_checkpoint(
    path: str | Path, device: str | torch.device = "cpu", base: str | Path | None = None
) -> Translator:
    """The model that a training checkpoint holds: averaged weights where averaging was on.

    Args:
        path: The checkpoint.
        device: Where to put the model.
        base: The finished model that its heads were trained on, for a checkpoint of heads alone; by default where it
            was then.

    Raises:
        InputError: The file is no checkpoint of a model of this project, or the base is another one.
    """
    return Translator.of(read_checkpoint(path, base)).to(device)
