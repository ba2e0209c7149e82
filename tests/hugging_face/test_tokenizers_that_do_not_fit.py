"""A tokenizer that does not fit is refused before training, whatever made it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import small_models
import transformers
from small_models import pairs, write_text

from lightning_bpd.codecs.hugging_face import open_codec
from lightning_bpd.codecs.tokenizers import check_knows, train_tokenizer
from lightning_bpd.datamodules import ParallelText
from lightning_bpd.interfaces import InputError
from lightning_bpd.saved.finished_model import read_base
from lightning_bpd.saved.marian import read_codec

RUSSIAN = ["Старик покупает дом", "Где работает госпожа Фишер", "Сегодня холодно и идёт снег"] * 4
FAMILIES = {"marian": small_models.marian, "t5": small_models.t5}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "model"
    FAMILIES[request.param](folder)
    return folder


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> Path:
    """A model whose tokenizer cannot spell what it does not know."""
    return FAMILIES["marian"](tmp_path_factory.mktemp("pieces") / "model")


def test_another_script_is_refused_and_the_own_is_not(pieces):
    for codec in (open_codec(f"hf:{pieces}"), read_codec(pieces)):
        for side, tokenizer in enumerate((codec.source, codec.target)):
            check_knows(tokenizer, [pair[side] for pair in pairs(50)], "the model", "text")
            with pytest.raises(InputError, match=r"^the model: .* in 12 of the first 12 lines of text"):
                check_knows(tokenizer, RUSSIAN, "the model", "text")


def test_another_script_is_refused_by_the_data(pieces, tmp_path):
    (tmp_path / "train.tsv").write_text("".join(f"{line}\t{line}\n" for line in RUSSIAN))
    (tmp_path / "val.tsv").write_text("".join(f"{line}\t{line}\n" for line in RUSSIAN))
    data = ParallelText(str(tmp_path), tokenizer=f"hf:{pieces}")
    with pytest.raises(InputError, match="the tokenizer does not match the text"):
        data.prepare_data()


def test_a_sentencepiece_model_for_other_text():
    greek = train_tokenizer(["αβγ δεζ ηθι", "αβ γδ εζ"], 24, byte_fallback=False)
    with pytest.raises(InputError, match="in 2 of the first 3 lines of text, the first time in line 2"):
        check_knows(greek, ["", "Старик", "дом"], "greek", "text")
    check_knows(greek, ["", " ", "αβ"], "greek", "text")


def test_a_folder_without_tokenizer_files(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    for path in (tmp_path / "model").iterdir():
        if path.name not in ("config.json", "generation_config.json") and path.suffix != ".safetensors":
            path.unlink()
    read: list[Callable[[str], object]] = [open_codec, read_base]
    for each in read:
        with pytest.raises(InputError) as caught:
            each(f"hf:{tmp_path / 'model'}")
        assert "holds no tokenizer" in str(caught.value) or "cannot be loaded" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_tokenizer_of_another_model(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    small = transformers.AutoConfig.from_pretrained(folder)
    small.vocab_size = small.decoder_vocab_size = 4000
    kind = transformers.AutoModelForSeq2SeqLM
    kind.from_config(small).save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="tokens and the model knows 4000: they do not belong together"):
        read_base(f"hf:{tmp_path / 'model'}")


def test_text_that_fits_passes(folder, tmp_path):
    data = ParallelText(str(write_text(tmp_path)), tokenizer=f"hf:{folder}")
    data.prepare_data()
