"""Parallel text for training, validation and test: reads files, gives batches of token ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lightning_bpd.codecs.hugging_face import is_reference, open_codec
from lightning_bpd.codecs.text import TextCodec, TextualCodec, text_signature
from lightning_bpd.codecs.text_lines import called, is_stream
from lightning_bpd.codecs.tokenizer_files import StoredTokenizer, load_tokenizer
from lightning_bpd.codecs.tokenizers import (
    BleuTokenizer,
    Normalization,
    TextSide,
    Tokenizer,
    check_knows,
    train_tokenizer,
)
from lightning_bpd.datamodules.caches import content_key, default_cache, writing
from lightning_bpd.datamodules.distilled import MANIFEST, finished_distillation
from lightning_bpd.datamodules.encoded_corpus import EncodedCorpus, encode_corpus
from lightning_bpd.datamodules.held_out import Part
from lightning_bpd.datamodules.loading import PartsOfData
from lightning_bpd.datamodules.text_files import PairFiles, find_pair_files, fingerprint, read_pairs
from lightning_bpd.datamodules.token_batches import collate
from lightning_bpd.faults import program
from lightning_bpd.files import write_atomically
from lightning_bpd.interfaces import InputError, ParallelBatch
from lightning_bpd.saved.finished_model import read_codec

Mix = Literal["gold", "distilled", "both"]

# Part of the key of a trained tokenizer: raise it when the training of tokenizers changes.
_TOKENIZER_FORMAT = 1
# Pairs that are checked to see whether a given tokenizer knows the characters of the text.
CHECKED_PAIRS = 1000
# Tokens counted at a time, because counting copies them at eight bytes each.
_COUNTED_TOKENS = 1 << 22


class ParallelText(PartsOfData[EncodedCorpus, ParallelBatch]):
    """Sentence pairs from a folder of text files, in batches by token count.

    A corpus called NAME is two files aligned line by line, ``NAME.<source language>`` and ``NAME.<target language>``,
    or ``NAME.tsv`` or ``NAME.jsonl``; each may be compressed (``.gz``, ``.xz``, ``.bz2``). A name may also be a pipe,
    or ``-`` for standard input, that gives pairs as TSV or JSON lines. Tokenizers are trained on the training text
    unless they are given. Text is encoded once and then cached by content. An interrupted training continues with the
    batch after its checkpoint.

    Args:
        folder: The folder of the text files.
        source_language: The ending of source files, and the key of the source in JSON lines.
        target_language: The ending of target files, and the key of the target in JSON lines.
        train: The names of the training corpora; they are joined.
        distilled: A folder that ``distill`` made from the training corpora.
        mix: The training data: the training corpora (gold), the teacher's translations of them (distilled), or both.
        self_distillation: Whether the base is intended to be the teacher; if false, this case gives a warning.
        validation: The name of the validation corpus.
        test: The name of the test corpus. It may be missing until it is used.
        vocab_size: The number of tokens of a tokenizer that is trained here; a given tokenizer keeps its own.
        joint_vocabulary: One tokenizer for both sides, trained on both, or one for each side.
        byte_fallback: Encode characters that the training text lacks as bytes, not as the unknown token.
        normalization: How a tokenizer that is trained here changes characters before it cuts text into tokens;
            ``identity`` changes nothing.
        tokenizer: A tokenizer file, such as a SentencePiece model, to use instead of training one. With separate
            vocabularies it is the tokenizer of the source side. Or a Hugging Face model, ``hf:NAME_OR_FOLDER``, or the
            folder of a finished model with such a base, for both sides.
        target_tokenizer: A tokenizer file for the target side; only with separate vocabularies.
        batch_tokens: The most tokens in a training batch, padding included, on its longer side.
        validation_batch_tokens: This limit for validation, test and prediction; ``batch_tokens`` if not given.
        max_length: The most tokens of a sentence, its end token included. Training leaves out longer pairs;
            validation and test cut them.
        cache: Folder for encoded text and trained tokenizers. By default ``.encoded`` in the folder, or
            ``data/.encoded`` if that folder cannot be written.
        workers: Processes that prepare batches; 0 prepares them in the training process, which is seldom slower.
        seed: Decides the order of the training pairs.
        bleu_tokenizer: The tokenizer of BLEU, by sacreBLEU's name: ``zh`` for Chinese, ``ja-mecab`` for Japanese,
            ``ko-mecab`` for Korean, ``flores200`` for any language, ``13a`` for languages with spaces.
        codec: A codec of your own, by the import path of its class, in place of tokenizers.
    """

    train_corpus: EncodedCorpus
    validation_corpus: EncodedCorpus
    test_corpus: EncodedCorpus

    def __init__(
        self,
        folder: str,
        source_language: str = "en",
        target_language: str = "de",
        train: Sequence[str] = ("train",),
        distilled: str | None = None,
        mix: Mix = "gold",
        self_distillation: bool = False,
        validation: str = "val",
        test: str = "test",
        vocab_size: int = 8000,
        joint_vocabulary: bool = True,
        byte_fallback: bool = True,
        normalization: Normalization = "identity",
        tokenizer: str | None = None,
        target_tokenizer: str | None = None,
        batch_tokens: int = 4096,
        validation_batch_tokens: int | None = None,
        max_length: int = 256,
        cache: str | None = None,
        workers: int = 0,
        seed: int = 1,
        bleu_tokenizer: BleuTokenizer = "13a",
        codec: TextualCodec | None = None,
    ) -> None:
        super().__init__("corpus", batch_tokens, validation_batch_tokens, workers, seed)
        if source_language == target_language:
            raise InputError(
                f"source_language and target_language are both {source_language!r}; they must differ."
            )
        if joint_vocabulary and target_tokenizer is not None:
            raise InputError(
                f"target_tokenizer is {target_tokenizer!r}, but a joint vocabulary has one tokenizer; give it as"
                " tokenizer, or set joint_vocabulary to false."
            )
        if target_tokenizer is not None and tokenizer is not None and is_reference(tokenizer):
            raise InputError(
                f"tokenizer {tokenizer} is for both sides: leave target_tokenizer ({target_tokenizer}) out."
            )
        if mix != "gold" and distilled is None:
            raise InputError(
                f"mix is {mix!r}, and no distilled data is named: make it with {program()} distill, and give its"
                " folder as distilled."
            )
        self.folder = Path(folder)
        self.source_language, self.target_language = source_language, target_language
        self.vocab_size, self.joint_vocabulary = vocab_size, joint_vocabulary
        self.byte_fallback, self.normalization = byte_fallback, normalization
        self.max_length = max_length
        self.batch_tokens, self.validation_batch_tokens = self._batch_sizes
        self.bleu_tokenizer = bleu_tokenizer
        # A string is one name, not a sequence of letters.
        names = [train] if isinstance(train, str) else list(train)
        self.mix, self.self_distillation = mix, self_distillation
        self.distilled_by: str | None = None
        """fingerprint of the teacher's network, if its translations are training data"""
        if distilled is not None and mix != "gold":
            self.distilled_by = finished_distillation(Path(distilled))["teacher"]["network"]
            ours = str(Path(distilled).absolute() / "train")
            names = [ours] if mix == "distilled" else [*names, ours]
        self._names: dict[Part, list[str]] = {"train": names, "validation": [validation], "test": [test]}
        self._given_codec = codec
        self._given_tokenizers = (tokenizer, tokenizer if joint_vocabulary else target_tokenizer)
        self._cache = Path(cache) if cache is not None else None
        self._texts: dict[Part, tuple[list[str], list[str]]] = {}

    def prepare_data(self) -> None:
        """Train the tokenizers, unless given, and encode the corpora that exist. Raises InputError for bad text."""
        _ = self.codec
        super().prepare_data()

    @cached_property
    def codec(self) -> TextualCodec:
        """The codec of the tokens. The first use trains tokenizers that are neither given nor cached."""
        # Checked before training, because the tokenizer of BLEU may need a package that is not installed.
        text_signature(self.bleu_tokenizer)
        codec: Any = self._given_codec or self._open_codec()
        return dataclasses.replace(codec, bleu_tokenizer=self.bleu_tokenizer)

    @property
    def source_tokenizer(self) -> TextSide:
        """The codec's tokenizer of sources."""
        return self.codec.source

    @property
    def target_tokenizer(self) -> TextSide:
        """The codec's tokenizer of targets; ``source_tokenizer`` itself if the vocabulary is joint."""
        return self.codec.target

    def sources(self, stage: Part) -> list[str]:
        """The source lines of a corpus as read from its files; ``ParallelBatch.index`` holds their indices.

        Only for "validation" and "test", where no pair is left out.
        """
        return self._lines(stage)[0]

    def references(self, stage: Part) -> list[str]:
        """The target lines of a corpus, in the order of ``sources``."""
        return self._lines(stage)[1]

    def _lines(self, part: Part) -> tuple[list[str], list[str]]:
        if part not in self._texts:
            sources, targets = zip(*self._pairs(part), strict=True)
            self._texts[part] = (list(sources), list(targets))
        return self._texts[part]

    def target_counts(self) -> torch.Tensor:
        """The number of occurrences of each target token in the training data, int64 [V]."""
        tokens = self.train_corpus.target.tokens
        counts = np.zeros(self.target_tokenizer.vocab_size, dtype=np.int64)
        for first in range(0, len(tokens), _COUNTED_TOKENS):
            counts += np.bincount(tokens[first : first + _COUNTED_TOKENS], minlength=len(counts))
        return torch.from_numpy(counts)

    def _lengths(self, rows: EncodedCorpus) -> tuple[np.ndarray, np.ndarray]:
        return rows.source.lengths, rows.target.lengths

    def _collate(self, rows: EncodedCorpus) -> Callable[[Sequence[int]], ParallelBatch]:
        return partial(collate, rows.source, rows.target)

    def _files(self, part: Part) -> list[PairFiles]:
        if (self.folder / MANIFEST).is_file():
            finished_distillation(self.folder)  # else some files may be older than others
        files = find_pair_files(self.folder, self._names[part], self.source_language, self.target_language)
        streams = [path for each in files for path in each.paths if is_stream(path)]
        if streams and self.trainer is not None and self.trainer.world_size > 1:
            raise InputError(
                f"{called(streams[0])} can be read by one process only: write it to a file to train in several"
            )
        return files

    def _exists(self, part: Part) -> bool:
        try:
            self._files(part)
        except InputError:
            # The error is raised again when the part is needed.
            return False
        return True

    def _pairs(self, part: Part) -> Iterator[tuple[str, str]]:
        return chain.from_iterable(map(read_pairs, self._files(part)))

    def cache_folder(self) -> Path:
        """The folder for what is computed once of the text."""
        return default_cache(self.folder) if self._cache is None else self._cache

    def _open_codec(self) -> TextualCodec:
        given, of_target = self._given_tokenizers
        if given is not None and is_reference(given):
            return open_codec(given)
        if given is not None and Path(given).is_dir():
            return read_codec(given)
        if self.joint_vocabulary:
            both = self._tokenizer(given, "both")
            return TextCodec(both, both)
        source = self._tokenizer(given, "source")
        return TextCodec(source, self._tokenizer(of_target, "target"))

    def _tokenizer(self, given: str | None, side: Literal["both", "source", "target"]) -> StoredTokenizer:
        """The given tokenizer, or a tokenizer trained on a side of the training text, now or by an earlier call."""
        if given is not None:
            return load_tokenizer(given)
        content = fingerprint(self._files("train"))
        key = content_key(
            _TOKENIZER_FORMAT, content, side, self.vocab_size, self.byte_fallback, self.normalization
        )
        path = self.cache_folder() / f"tokenizer-{key}.model"
        if not path.exists():
            tokenizer = train_tokenizer(
                self._training_lines(side), self.vocab_size, self.byte_fallback, self.normalization
            )
            with writing(path.parent):
                write_atomically(path, tokenizer.content)
        return Tokenizer.load(path)

    def _training_lines(self, side: Literal["both", "source", "target"]) -> Iterable[str]:
        pairs = self._pairs("train")
        if side == "both":
            return chain.from_iterable(pairs)
        return (pair[side == "target"] for pair in pairs)

    def _load(self, part: Part) -> EncodedCorpus:
        files = self._files(part)
        if self._given_tokenizers != (None, None):
            check_tokenizers(self.codec, self._given_tokenizers, files[0])
        tokenizers = self.source_tokenizer, self.target_tokenizer
        return encode_corpus(
            files, *tokenizers, self.cache_folder(), self.max_length, drop=part == "train", description=part
        )


def check_tokenizers(codec: TextualCodec, names: Sequence[str | None], files: PairFiles) -> None:
    """Raise InputError if a tokenizer of a codec clearly does not fit the text of ``files``.

    Args:
        codec: The codec.
        names: The names of the source and the target tokenizer for messages; None for a side that is not checked.
        files: The text.
    """
    pairs = list(islice(read_pairs(files), CHECKED_PAIRS))
    for side, (name, tokenizer) in enumerate(zip(names, (codec.source, codec.target), strict=True)):
        if name is not None:
            path = files.paths[side % len(files.paths)]
            check_knows(tokenizer, [pair[side] for pair in pairs], name, str(path))
