"""Prompts and completions for decoder-only bases (floor 3)."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_bpd.codecs.hugging_face import HuggingFaceCodec, with_template
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.codecs.tokenizers import BleuTokenizer
from lightning_bpd.datamodules.parallel_text import Mix, ParallelText
from lightning_bpd.interfaces import InputError


class Prompts(ParallelText):
    """Prompts and completions for a decoder-only Hugging Face model: the prompt is the source, and out of the loss.

    A corpus called NAME is ``NAME.jsonl``, whose lines are ``{"prompt": ..., "completion": ...}`` or ``{"messages":
    [...]}`` that end with what the assistant says, which alone is learned; or parallel text as ParallelText reads it,
    of which ``template`` makes prompts. Completions end with the model's end token.

    Args:
        folder: Where the files are.
        template: How a prompt is made of a source: text with ``{source}`` in it, such as ``translate: {source} =``;
            or ``chat`` for the chat template of the model's tokenizer, which messages need. The source itself, or what
            the base was trained with, if not given.
        source_language: The ending of source files, and the key of the prompt in JSON lines.
        target_language: The ending of target files, and the key of the completion in JSON lines.
        train: The names of the training corpora; they are joined.
        distilled: A folder that ``distill`` made of them.
        mix: What to train on: the training corpora (gold), the teacher's completions of them (distilled), or both.
        self_distillation: Whether it is meant that the distilled data is the base's own; without, a warning says so.
        validation: The name of the validation corpus.
        test: The name of the test corpus. It may be missing until it is asked for.
        tokenizer: The Hugging Face model whose tokens are wanted, ``hf:NAME_OR_FOLDER``; the base's by default.
        batch_tokens: The most tokens in a training batch, padding included, on its longer side.
        validation_batch_tokens: The same for validation, test and prediction; ``batch_tokens`` if not given.
        max_length: The most tokens of a prompt, and of a completion with its end token. A longer pair is left out of
            training; elsewhere a prompt loses its beginning and a completion its end.
        cache: Where encoded text is kept, as for ParallelText.
        workers: Processes that prepare batches.
        seed: Decides the order of the training pairs.
        bleu_tokenizer: What BLEU cuts text with, as for ParallelText.
    """

    def __init__(
        self,
        folder: str,
        template: str | None = None,
        source_language: str = "prompt",
        target_language: str = "completion",
        train: Sequence[str] = ("train",),
        distilled: str | None = None,
        mix: Mix = "gold",
        self_distillation: bool = False,
        validation: str = "val",
        test: str = "test",
        tokenizer: str | None = None,
        batch_tokens: int = 4096,
        validation_batch_tokens: int | None = None,
        max_length: int = 256,
        cache: str | None = None,
        workers: int = 0,
        seed: int = 1,
        bleu_tokenizer: BleuTokenizer = "13a",
    ) -> None:
        super().__init__(
            folder,
            source_language,
            target_language,
            train=train,
            distilled=distilled,
            mix=mix,
            self_distillation=self_distillation,
            validation=validation,
            test=test,
            tokenizer=tokenizer,
            batch_tokens=batch_tokens,
            validation_batch_tokens=validation_batch_tokens,
            max_length=max_length,
            cache=cache,
            workers=workers,
            seed=seed,
            bleu_tokenizer=bleu_tokenizer,
        )
        self.template = template

    def _open_codec(self) -> TextCodec | HuggingFaceCodec:
        if self._given_tokenizers[0] is None:
            raise InputError(
                "prompts are cut into the tokens of a decoder-only model, and none is named: give model.base or "
                "data.tokenizer as hf:NAME_OR_FOLDER"
            )
        codec = super()._open_codec()
        if not isinstance(codec, HuggingFaceCodec):
            raise InputError(
                f"prompts are for decoder-only Hugging Face models, and {self._given_tokenizers[0]} is none: use "
                "ParallelText"
            )
        template = self.template or codec.source.settings.template or "{source}"
        return with_template(codec, template)
