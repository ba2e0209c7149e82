"""The generated corpus as a data module: what a first run trains on."""

from __future__ import annotations

from lightning_bpd.datamodules.demo.corpus import write_demo_corpus
from lightning_bpd.datamodules.parallel_text import ParallelText


class DemoText(ParallelText):
    """Generated English-German sentences that need no download: the corpus of a first run.

    Args:
        folder: Where the corpus is written, unless it is there already.
        pairs: The number of training pairs.
        corpus_seed: Decides which sentences are generated.
        vocab_size: The number of tokens of the tokenizer, which both languages share.
        tokenizer: A SentencePiece model file to use instead of training one.
        batch_tokens: The most tokens in a batch, padding included, on its longer side.
        workers: Processes that prepare batches; 0 prepares them in the training process.
        seed: Decides the order of the training pairs.
    """

    def __init__(
        self,
        folder: str = "data/demo",
        pairs: int = 24000,
        corpus_seed: int = 1,
        vocab_size: int = 2000,
        tokenizer: str | None = None,
        batch_tokens: int = 2048,
        workers: int = 0,
        seed: int = 1,
    ) -> None:
        super().__init__(
            folder,
            vocab_size=vocab_size,
            tokenizer=tokenizer,
            batch_tokens=batch_tokens,
            workers=workers,
            seed=seed,
        )
        self.pairs, self.corpus_seed = pairs, corpus_seed

    def prepare_data(self) -> None:
        """Generate the corpus where it is missing; then the same as for any parallel text."""
        write_demo_corpus(self.folder, seed=self.corpus_seed, train=self.pairs)
        super().prepare_data()
