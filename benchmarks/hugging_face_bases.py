"""Small bases on Multi30k made by transformers' own classes alone, as a user would have them already.

    python benchmarks/hugging_face_bases.py --family marian --output runs/hugging_face/marian
    python benchmarks/hugging_face_bases.py --family llama --output runs/hugging_face/llama

``marian`` is an encoder-decoder in the form of the opus-mt models; ``llama`` continues ``translate: SOURCE =``. The
folder is what ``save_pretrained`` writes: nothing of this project is in it. ``--shape draft`` makes the small models
that draft for them in assisted generation, with the tokenizer of ``--tokenizer``. ``--prompts FOLDER`` writes the
corpus as ``llama`` was trained on it, for ``--data Prompts``: completions of a byte-level tokenizer begin with a space.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

TEMPLATE = "translate: {source} ="
# What a token of a prompt, and padding, has for a label: no loss.
IGNORED = -100
SHAPES = {
    "base": {"width": 128, "layers": 4, "heads": 4, "feed_forward": 384},
    "draft": {"width": 64, "layers": 1, "heads": 4, "feed_forward": 128},
}
POSITIONS = 256

Pair = tuple[list[int], list[int]]


def main() -> None:
    """Make a tokenizer and a model, train it, and save both."""
    options = arguments()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    text = {part: read_pairs(options.folder, part) for part in ("train", "val")}
    if options.prompts is not None:
        write_prompts(options.prompts, {**text, "test": read_pairs(options.folder, "test_2016_flickr")})
    options.output.mkdir(parents=True, exist_ok=True)
    make = marian_tokenizer if options.family == "marian" else llama_tokenizer
    if options.tokenizer is None:
        tokenizer = make(text["train"], options.vocabulary, options.output)
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(options.tokenizer, local_files_only=True)
    tokenizer.save_pretrained(options.output)
    encode = marian_pairs if options.family == "marian" else llama_pairs
    pairs = {part: encode(tokenizer, lines) for part, lines in text.items()}
    model = (marian if options.family == "marian" else llama)(
        tokenizer, SHAPES[options.shape], options.dropout
    )
    best = train(model, pairs, tokenizer.pad_token_id, options)
    best.save_pretrained(options.output)
    print(f"{options.output}: {sum(weight.numel() for weight in best.parameters()):,} parameters")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", choices=("marian", "llama"), required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of the model and its tokenizer")
    parser.add_argument("--folder", type=Path, default=Path("data/multi30k"), help="folder of the text")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="base")
    parser.add_argument("--tokenizer", type=Path, help="folder of a model whose tokenizer to take")
    parser.add_argument("--prompts", type=Path, help="folder for the corpus as prompts and completions")
    parser.add_argument("--vocabulary", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch_tokens", type=int, default=3072, help="padding included")
    parser.add_argument("--rate", type=float, default=2e-3, help="the highest learning rate")
    parser.add_argument("--warmup", type=int, default=600, help="steps")
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def read_pairs(folder: Path, part: str) -> list[tuple[str, str]]:
    """English and German lines of one part of the corpus."""
    sides = []
    for language in ("en", "de"):
        with gzip.open(folder / f"{part}.{language}.gz", "rt", encoding="utf-8") as file:
            sides.append([line.strip() for line in file])
    return list(zip(*sides, strict=True))


def write_prompts(folder: Path, text: dict[str, list[tuple[str, str]]]) -> None:
    """One JSON object a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, lines in text.items():
        with (folder / f"{part}.jsonl").open("w", encoding="utf-8") as file:
            for source, target in lines:
                pair = {"prompt": TEMPLATE.format(source=source), "completion": f" {target}"}
                file.write(json.dumps(pair, ensure_ascii=False) + "\n")


def marian_tokenizer(lines: list[tuple[str, str]], size: int, folder: Path) -> Any:
    """As opus-mt's: SentencePiece for each side, one vocab.json, padding last."""
    vocabulary = {"</s>": 0, "<unk>": 1}
    for side, name in enumerate(("source.spm", "target.spm")):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([pair[side] for pair in lines]), model_prefix=str(folder / name),
            model_type="bpe", vocab_size=size // 2, character_coverage=1.0, unk_id=0, bos_id=-1, eos_id=-1,
            minloglevel=2,
        )  # fmt: skip
        (folder / f"{name}.model").rename(folder / name)
        (folder / f"{name}.vocab").unlink()
        processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / name))
        for piece in range(processor.vocab_size()):
            vocabulary.setdefault(processor.id_to_piece(piece), len(vocabulary))
    vocabulary["<pad>"] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    files = (str(folder / name) for name in ("source.spm", "target.spm", "vocab.json"))
    return transformers.MarianTokenizer(*files, source_lang="en", target_lang="de")


def llama_tokenizer(lines: list[tuple[str, str]], size: int, folder: Path) -> Any:
    """Byte-level BPE of both languages; a start token is put in front."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [TEMPLATE.format(source=source) + f" {target}" for source, target in lines],
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=["<pad>", "</s>", "<s>"], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>"
    )


def marian_pairs(tokenizer: Any, lines: list[tuple[str, str]]) -> list[Pair]:
    """Tokens of both sides with their end tokens."""
    sources, targets = zip(*lines, strict=True)
    return list(
        zip(
            tokenizer(list(sources))["input_ids"],
            tokenizer(text_target=list(targets))["input_ids"],
            strict=True,
        )
    )


def llama_pairs(tokenizer: Any, lines: list[tuple[str, str]]) -> list[Pair]:
    """Tokens of prompts, and of what completes them with the end token."""
    sources, targets = zip(*lines, strict=True)
    prompts = tokenizer([TEMPLATE.format(source=source) for source in sources])["input_ids"]
    completions = tokenizer([f" {target}" for target in targets], add_special_tokens=False)["input_ids"]
    return [
        (prompt, [*row, tokenizer.eos_token_id]) for prompt, row in zip(prompts, completions, strict=True)
    ]


def marian(tokenizer: Any, shape: dict[str, int], dropout: float) -> nn.Module:
    """A random model in the form of opus-mt's: decoding starts from padding, whose embedding is zero."""
    padding = tokenizer.pad_token_id
    config = transformers.MarianConfig(
        vocab_size=padding + 1, decoder_vocab_size=padding + 1, d_model=shape["width"],
        encoder_layers=shape["layers"], decoder_layers=shape["layers"],
        encoder_attention_heads=shape["heads"], decoder_attention_heads=shape["heads"],
        encoder_ffn_dim=shape["feed_forward"], decoder_ffn_dim=shape["feed_forward"], activation_function="swish",
        dropout=dropout, max_position_embeddings=POSITIONS, scale_embedding=True, pad_token_id=padding,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.eos_token_id, decoder_start_token_id=padding,
        forced_eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = transformers.MarianMTModel(config)
    model.generation_config.bad_words_ids = [[padding]]
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        nn.init.normal_(embedding, std=shape["width"] ** -0.5)
        embedding[padding] = 0
    embedding.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([padding]), 0.0))
    return model


def llama(tokenizer: Any, shape: dict[str, int], dropout: float) -> nn.Module:
    """A random Llama. The class has no dropout but attention's; it is put on what each sublayer adds."""
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=shape["width"], num_hidden_layers=shape["layers"],
        intermediate_size=shape["feed_forward"], num_attention_heads=shape["heads"],
        num_key_value_heads=shape["heads"] // 2, max_position_embeddings=POSITIONS, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)

    def drop(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return F.dropout(output, dropout, module.training)

    for module in (
        model.model.embed_tokens,
        *(m for layer in model.model.layers for m in (layer.self_attn.o_proj, layer.mlp)),
    ):
        module.register_forward_hook(drop)
    return model


def batches(pairs: list[Pair], tokens: int, order: random.Random | None) -> Iterator[list[Pair]]:
    """Batches of like length, at most so many tokens with padding; in random order for training."""
    weights = [(len(source) + len(target), index) for index, (source, target) in enumerate(pairs)]
    if order is not None:
        weights = [(weight + 3 * order.random(), index) for weight, index in weights]
    groups: list[list[Pair]] = [[]]
    longest = 0
    for weight, index in sorted(weights):
        longest = max(longest, math.ceil(weight))
        if groups[-1] and longest * (len(groups[-1]) + 1) > tokens:
            groups.append([])
            longest = math.ceil(weight)
        groups[-1].append(pairs[index])
    if order is not None:
        order.shuffle(groups)
    yield from groups


def padded(rows: list[list[int]], filler: int) -> Tensor:
    """Rows filled up on the right, int64 [B, T]."""
    return nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=filler
    )


def loss_of(model: nn.Module, group: list[Pair], padding: int, smoothing: float) -> tuple[Tensor, int]:
    """Mean cross-entropy (nats) of the target tokens, and how many there are."""
    sources, targets = map(list, zip(*group, strict=True))
    if model.config.is_encoder_decoder:
        tokens, labels = padded(sources, padding), padded(targets, IGNORED)
        logits = model(input_ids=tokens, attention_mask=(tokens != padding).long(), labels=labels).logits
        wanted = labels
    else:
        tokens = padded([source + target for source, target in group], padding)
        wanted = padded([[IGNORED] * len(source) + target for source, target in group], IGNORED)[:, 1:]
        hidden = model.model(tokens).last_hidden_state[:, :-1]
        # Padding is on the right, where no earlier position sees it; prompts need no logits.
        counted = wanted != IGNORED
        logits, wanted = model.lm_head(hidden[counted]), wanted[counted]
    loss = F.cross_entropy(
        logits.flatten(0, -2), wanted.flatten(), ignore_index=IGNORED, label_smoothing=smoothing
    )
    return loss, sum(map(len, targets))


def train(model: Any, pairs: dict[str, list[Pair]], padding: int, options: argparse.Namespace) -> Any:
    """Adam with a warm-up and a cosine; returns the averaged weights of the best epoch."""
    order = random.Random(options.seed)
    steps = options.epochs * sum(1 for _ in batches(pairs["train"], options.batch_tokens, random.Random(0)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, betas=(0.9, 0.98), weight_decay=1e-3)

    def rate(step: int) -> float:
        if step < options.warmup:
            return (step + 1) / options.warmup
        return 0.5 * (1 + math.cos(math.pi * (step - options.warmup) / max(1, steps - options.warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.998))
    best, kept = math.inf, {}
    for epoch in range(options.epochs):
        began, total, count = time.perf_counter(), 0.0, 0
        model.train()
        for group in batches(pairs["train"], options.batch_tokens, order):
            loss, tokens = loss_of(model, group, padding, 0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            total, count = total + float(loss.detach()) * tokens, count + tokens
        averaged = average.module.eval()
        with torch.inference_mode():
            found = [loss_of(averaged, group, padding, 0.0) for group in batches(pairs["val"], 4096, None)]
        validation = sum(float(loss) * tokens for loss, tokens in found) / sum(tokens for _, tokens in found)
        seconds = time.perf_counter() - began
        print(f"epoch {epoch}: train {total / count:.3f}, val {validation:.3f}, {seconds:.0f} s", flush=True)
        if validation < best:
            best, kept = validation, {name: tensor.clone() for name, tensor in averaged.state_dict().items()}
    model.load_state_dict(kept)
    return model.eval()


if __name__ == "__main__":
    main()
