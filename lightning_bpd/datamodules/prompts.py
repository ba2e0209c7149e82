"""Prompts and completions for decoder-only bases (floor 3)."""

from __future__ import annotations

from typing import Any

from lightning_bpd.codecs.hugging_face import with_template
from lightning_bpd.codecs.text import TextualCodec
from lightning_bpd.datamodules.parallel_text import ParallelText
from lightning_bpd.interfaces import InputError


class Prompts(ParallelText):
    """Prompts and completions for a decoder-only Hugging Face model: the prompt is the source, and out of the loss.

    A corpus called NAME is ``NAME.jsonl``, whose lines are ``{"prompt": ..., "completion": ...}`` or ``{"messages":
    [...]}`` that end with what the assistant says, which alone is learned; or parallel text as ParallelText reads it,
    of which ``template`` makes prompts. Completions end with the model's end token.

    Args:
        folder: The folder of the files.
        template: How a prompt is made of a source: text with ``{source}`` in it, such as ``translate: {source} =``;
            or ``chat`` for the chat template of the model's tokenizer, which messages need. By default the template
            that the base was trained with, or the source itself.
        source_language: The ending of source files, and the key of the prompt in JSON lines.
        target_language: The ending of target files, and the key of the completion in JSON lines.
        tokenizer: The Hugging Face model whose tokens are used, ``hf:NAME_OR_FOLDER``; by default the base.
        max_length: The most tokens of a prompt, and of a completion with its end token. Training leaves out longer
            pairs; validation and test cut the beginning of a prompt and the end of a completion.
        **options: The options of ParallelText that do not concern the training of tokenizers.
    """

    def __init__(
        self,
        folder: str,
        template: str | None = None,
        source_language: str = "prompt",
        target_language: str = "completion",
        tokenizer: str | None = None,
        max_length: int = 256,
        **options: Any,
    ) -> None:
        # The options that are named here are no options of prompts: no tokenizer is trained.
        super().__init__(
            folder,
            source_language,
            target_language,
            vocab_size=8000,
            joint_vocabulary=True,
            byte_fallback=True,
            normalization="identity",
            tokenizer=tokenizer,
            target_tokenizer=None,
            max_length=max_length,
            **options,
        )
        self.template = template

    def _open_codec(self) -> TextualCodec:
        if self._given_tokenizers[0] is None:
            raise InputError(
                "prompts are cut into the tokens of a decoder-only model, and none is named: give model.base or "
                "data.tokenizer as hf:NAME_OR_FOLDER"
            )
        codec: Any = super()._open_codec()
        if not codec.prompts:
            raise InputError(
                f"prompts are for decoder-only Hugging Face models, and {self._given_tokenizers[0]} is none: use "
                "ParallelText"
            )
        template = self.template or codec.source.settings.template or "{source}"
        return with_template(codec, template)
