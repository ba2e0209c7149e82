"""Tiny Hugging Face folders made offline: random Marian, T5, mBART, GPT-2 and Llama models with real tokenizers."""

import io
import itertools
import json
import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
import sentencepiece
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from tools.demo_corpus.sentences import sentence_pairs

SEQ2SEQ: dict[str, Any] = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 160,
    "init_std": 0.3,
}  # fmt: skip


def pairs(count: int, seed: int = 3) -> list[tuple[str, str]]:
    return list(itertools.islice(sentence_pairs(seed=seed), count))


def write_text(folder: Path) -> Path:
    """300 pairs to train on, 21 to validate on and 11 to test on."""
    found = iter(pairs(332))
    for name, count in (("train", 300), ("val", 21), ("test", 11)):
        part = list(itertools.islice(found, count))
        (folder / f"{name}.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in part))
    return folder


def sentence_pieces(lines: list[str]) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="unigram", vocab_size=250, character_coverage=1.0,
        unk_id=0, bos_id=-1, eos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def marian(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """As opus-mt: two SentencePiece models, vocab.json, padding last, decoding begins from padding."""
    folder.mkdir(parents=True)
    vocabulary = {"</s>": 0, "<unk>": 1}
    for side, name in enumerate(("source.spm", "target.spm")):
        proto = sentence_pieces([pair[side] for pair in pairs(400)])
        (folder / name).write_bytes(proto)
        processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
        for piece in range(processor.vocab_size()):
            vocabulary.setdefault(processor.id_to_piece(piece), len(vocabulary))
    padding = vocabulary["<pad>"] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    files = (str(folder / name) for name in ("source.spm", "target.spm", "vocab.json"))
    transformers.MarianTokenizer(*files, source_lang="en", target_lang="de").save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.MarianConfig(
        **{**SEQ2SEQ, **settings}, vocab_size=padding + 1, decoder_vocab_size=padding + 1, pad_token_id=padding,
        eos_token_id=0, bos_token_id=0, decoder_start_token_id=padding, forced_eos_token_id=0, scale_embedding=True,
    )  # fmt: skip
    model = transformers.MarianMTModel(config)
    model.final_logits_bias.normal_()
    model.generation_config.bad_words_ids = [[padding]]
    model.generation_config.renormalize_logits = True
    model.save_pretrained(folder)
    return folder


def fast_tokenizer(*languages: str, before: str = "", after: str = " </s>") -> Any:
    """Byte-level BPE; ids 0 to 3 are padding, end, start and unknown, and languages come next."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>", "<s>", "<unk>", *languages]
    tokenizer.train_from_iterator(
        [text for pair in pairs(400) for text in pair],
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{before}$A{after}", special_tokens=[(token, special.index(token)) for token in special]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )


def t5(folder: Path, seed: int = 0) -> Path:
    fast_tokenizer().save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.T5Config(
        d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, vocab_size=416, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0,
    )  # fmt: skip
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def causal(folder: Path, family: str = "llama", seed: int = 0, **settings: Any) -> Path:
    fast_tokenizer(before="<s> ", after="").save_pretrained(folder)
    torch.manual_seed(seed)
    known = {"vocab_size": 400, "bos_token_id": 2, "eos_token_id": 1, "initializer_range": 0.3}
    if family == "gpt2":
        known |= {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 320}
    else:
        known |= {
            "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "max_position_embeddings": 320,
        }  # fmt: skip
    config = transformers.AutoConfig.for_model(family, **(known | settings))
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def _characters() -> list[str]:
    return sorted(
        {character for pair in pairs(400) for text in pair for character in text if character != " "}
    )


def nllb(folder: Path, seed: int = 0) -> Path:
    """Languages before the text on both sides; the target's is forced as the first token."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *_characters()]
    tokenizer = transformers.NllbTokenizer(
        vocab={piece: place for place, piece in enumerate(pieces)}, merges=[],
        additional_special_tokens=["eng_Latn", "deu_Latn"], src_lang="eng_Latn", tgt_lang="deu_Latn",
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.M2M100Config(
        **SEQ2SEQ, vocab_size=len(tokenizer), pad_token_id=1, bos_token_id=0, eos_token_id=2,
        decoder_start_token_id=2, forced_bos_token_id=None, encoder_layerdrop=0.4, decoder_layerdrop=0.4,
    )  # fmt: skip
    transformers.M2M100ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def mbart(folder: Path, seed: int = 0) -> Path:
    """Languages after the text on both sides; decoding begins from the target's."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *_characters()]
    tokenizer = transformers.MBartTokenizer(
        vocab=[(piece, -float(place)) for place, piece in enumerate(pieces)],
        additional_special_tokens=["en_XX", "de_DE"], src_lang="en_XX", tgt_lang="de_DE",
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.MBartConfig(
        **SEQ2SEQ, vocab_size=len(tokenizer), pad_token_id=1, bos_token_id=0, eos_token_id=2,
        decoder_start_token_id=None, forced_eos_token_id=None,
    )  # fmt: skip
    transformers.MBartForConditionalGeneration(config).save_pretrained(folder)
    return folder
