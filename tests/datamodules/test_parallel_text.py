import os
import pickle
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentParser

from lightning_bpd.codecs.tokenizers import train_tokenizer
from lightning_bpd.datamodules.parallel_text import ParallelText
from lightning_bpd.interfaces import InputError

WORDS = {"the": "das", "a": "ein", "house": "Haus", "tree": "Baum", "big": "groß", "is": "ist", "old": "alt"}


def lines(count, seed):
    random = torch.Generator().manual_seed(seed)
    words = list(WORDS)
    picks = [torch.randint(len(words), (2 + i % 5,), generator=random).tolist() for i in range(count)]
    return [" ".join(words[pick] for pick in row) for row in picks]


def write_pairs(folder, name, sources):
    (folder / f"{name}.en").write_text("".join(f"{line}\n" for line in sources), encoding="utf-8")
    german = (" ".join(WORDS.get(word, word) for word in line.split()) for line in sources)
    (folder / f"{name}.de").write_text("".join(f"{line}\n" for line in german), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    for seed, (name, count) in enumerate({"train": 60, "val": 12, "test": 9}.items()):
        write_pairs(tmp_path, name, lines(count, seed))
    return tmp_path


def make(folder, **settings):
    return ParallelText(str(folder), **{"vocab_size": 300, "batch_tokens": 64, **settings})


def ready(folder, stage="fit", **settings):
    data = make(folder, **settings)
    data.prepare_data()
    data.setup(stage)
    return data


def decoded(tokenizer, rows):
    return tokenizer.decode(
        [row[:n] for row, n in zip(rows.tokens.tolist(), rows.lengths.tolist(), strict=True)]
    )


def test_batches_hold_the_text_of_the_files(folder):
    data = ready(folder, None)
    seen = {}
    for batch in data.train_dataloader():
        assert batch.source.tokens.numel() <= 64
        for side, tokenizer, rows in (
            ("en", data.source_tokenizer, batch.source),
            ("de", data.target_tokenizer, batch.target),
        ):
            ends = rows.tokens.gather(1, rows.lengths[:, None] - 1)
            assert (ends == tokenizer.eos_id).all()
            texts = decoded(tokenizer, rows)
            seen.update({(side, i): text for i, text in zip(batch.index.tolist(), texts, strict=True)})
    for side in ("en", "de"):
        text = (folder / f"train.{side}").read_text(encoding="utf-8").splitlines()
        assert [seen[side, i] for i in range(60)] == text


def test_index_counts_the_lines_of_sources_and_references(folder):
    write_pairs(folder, "val", ["the house", "", "  old", "the old tree is big " * 20])
    data = ready(folder, max_length=8, validation_batch_tokens=8)
    assert data.sources("validation") == ["the house", "", "  old", "the old tree is big " * 20]
    assert data.references("validation")[0] == "das Haus"
    rows = [row for batch in data.val_dataloader() for row in batch.index.tolist()]
    assert sorted(rows) == [0, 1, 2, 3]
    longest = next(iter(data.val_dataloader()))
    assert longest.index.tolist() == [3]
    assert longest.source.lengths[0] == 8


def test_joint_and_separate_vocabularies(folder):
    joint = ready(folder)
    assert joint.source_tokenizer is joint.target_tokenizer
    separate = ready(folder, joint_vocabulary=False)
    assert separate.source_tokenizer.fingerprint != separate.target_tokenizer.fingerprint
    assert separate.target_tokenizer.decode(separate.target_tokenizer.encode(["groß"])) == ["groß"]


def test_given_tokenizers_are_used(folder, tmp_path):
    english, german = (
        train_tokenizer(lines(40, 5), 290),
        train_tokenizer(["das Haus ist groß", "ein Baum alt"], 280),
    )
    english.save(tmp_path / "en.model")
    german.save(tmp_path / "de.model")
    paths = {"tokenizer": str(tmp_path / "en.model"), "target_tokenizer": str(tmp_path / "de.model")}
    data = ready(folder, joint_vocabulary=False, **paths)
    assert data.source_tokenizer.fingerprint == english.fingerprint
    assert data.target_tokenizer.fingerprint == german.fingerprint
    data = ready(folder, tokenizer=paths["tokenizer"])
    assert data.target_tokenizer is data.source_tokenizer
    assert data.source_tokenizer.fingerprint == english.fingerprint


def test_a_tokenizer_for_other_text(folder, tmp_path):
    greek = train_tokenizer(["αβγ δεζ ηθι", "αβ γδ εζ"], 24, byte_fallback=False)
    greek.save(tmp_path / "greek.model")
    with pytest.raises(
        InputError, match=r"greek\.model: the tokenizer does not match the text.*60 of the first 60"
    ):
        ready(folder, tokenizer=str(tmp_path / "greek.model"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_tokenizer": "x.model"}, "joint vocabulary has one tokenizer"),
        ({"target_language": "en"}, "both 'en'"),
        ({"workers": -1}, "workers is -1"),
    ],
)
def test_settings_that_contradict(folder, settings, message):
    with pytest.raises(InputError, match=message):
        make(folder, **settings)


def test_second_start_encodes_and_trains_nothing(folder, monkeypatch):
    first = ready(folder)
    made = sorted((folder / ".encoded").rglob("*"))
    module = "lightning_bpd.datamodules.parallel_text.train_tokenizer"
    monkeypatch.setattr(module, lambda *args, **settings: pytest.fail("trained again"))
    second = ready(folder)
    assert second.source_tokenizer.fingerprint == first.source_tokenizer.fingerprint
    assert sorted((folder / ".encoded").rglob("*")) == made
    assert not [path for path in made if "partial" in path.name]


def test_changed_text_or_settings_make_another_tokenizer(folder):
    first = ready(folder).source_tokenizer.fingerprint
    assert ready(folder, vocab_size=310).source_tokenizer.fingerprint != first
    write_pairs(folder, "train", lines(60, 9))
    ready(folder)
    assert len(list((folder / ".encoded").glob("tokenizer-*.model"))) == 3


def test_several_training_corpora_are_joined(folder):
    write_pairs(folder, "more", lines(7, 8))
    assert len(ready(folder, train=["train", "more"]).train_corpus) == 67
    assert len(ready(folder, train="more", vocab_size=285).train_corpus) == 7


def test_cache_goes_where_it_can_be_written(folder, tmp_path, monkeypatch):
    ready(folder, cache=str(tmp_path / "elsewhere"))
    assert list((tmp_path / "elsewhere").glob("tokenizer-*.model"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder.chmod(0o555)
    ready(folder)
    folder.chmod(0o755)
    assert list(Path("data/.encoded").glob("tokenizer-*.model"))
    assert not (folder / ".encoded").exists()


def test_a_cache_that_cannot_be_made(folder):
    (folder / "file").write_text("")
    with pytest.raises(InputError, match="cache folder cannot be written"):
        ready(folder, cache=str(folder / "file" / "cache"))


def test_missing_test_text_matters_only_when_it_is_needed(folder):
    (folder / "test.de").unlink()
    data = ready(folder)
    data.setup(None)
    with pytest.raises(InputError, match="test"):
        data.setup("test")


def test_missing_training_text(folder):
    (folder / "train.en").unlink()
    with pytest.raises(InputError, match="train"):
        make(folder).prepare_data()


def test_bad_test_text_is_told_before_training(folder):
    (folder / "test.de").write_text("nur eine Zeile\n")
    with pytest.raises(InputError, match=r"9 lines and test\.de 1"):
        make(folder).prepare_data()


def test_workers_give_the_same_batches(folder):
    batches = [list(ready(folder, workers=workers).train_dataloader()) for workers in (0, 2)]
    for alone, worked in zip(*batches, strict=True):
        assert torch.equal(alone.index, worked.index)
        assert torch.equal(alone.source.tokens, worked.source.tokens)


def test_datasets_can_be_sent_to_other_processes(folder):
    collate = ready(folder).train_dataloader().collate_fn
    copy = pickle.loads(pickle.dumps(collate))
    assert torch.equal(copy([3]).target.tokens, collate([3]).target.tokens)


class _TwoRanks:
    """What a data module asks of a trainer, seen from the second of two processes."""

    world_size, global_rank, current_epoch = 2, 1, 0

    def __init__(self, use_distributed_sampler):
        self._accelerator_connector = self
        self.use_distributed_sampler = use_distributed_sampler


def test_lightning_must_not_divide_the_batches_again(folder):
    data = ready(folder)
    data.trainer = _TwoRanks(use_distributed_sampler=True)
    with pytest.raises(InputError, match=r"set trainer\.use_distributed_sampler to false"):
        data.train_dataloader()


def test_ranks_validate_each_pair_once(folder):
    data = ready(folder, validation_batch_tokens=20)
    everything = [batch.index.tolist() for batch in data.val_dataloader()]
    data.trainer = _TwoRanks(use_distributed_sampler=False)
    assert [batch.index.tolist() for batch in data.val_dataloader()] == everything[1::2]


class _Recorder(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.rows = []

    def test_step(self, batch):
        self.rows += batch.index.tolist()

    def predict_step(self, batch):
        return batch.index


def test_lightning_tests_and_predicts_every_pair(folder):
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    model, data = _Recorder(), make(folder)
    trainer.test(model, data, verbose=False)
    assert sorted(model.rows) == list(range(9))
    predicted = trainer.predict(model, data)
    assert sorted(torch.cat(predicted).tolist()) == list(range(9))


def test_flags_of_the_command_line(folder):
    parser = ArgumentParser()
    parser.add_class_arguments(ParallelText, "data")
    text = parser.format_help()
    assert "The names of the training corpora" in text
    flags = [f"--data.folder={folder}", "--data.train=[train, more]", "--data.joint_vocabulary=false"]
    data = parser.instantiate(parser.parse_args(flags)).data
    assert data._names["train"] == ["train", "more"]
    assert not data.joint_vocabulary
    assert parser.instantiate(parser.parse_args(flags[:1])).data._names["train"] == ["train"]


@pytest.mark.skipif(
    "LIGHTNING_BPD_MULTI30K" not in os.environ, reason="LIGHTNING_BPD_MULTI30K names no folder"
)
def test_multi30k(tmp_path):
    data = ready(
        os.environ["LIGHTNING_BPD_MULTI30K"], vocab_size=8000, batch_tokens=4096, cache=str(tmp_path)
    )
    assert len(data.train_corpus) == 29000
    assert len(data.validation_corpus) == len(data.references("validation")) == 1014
    sampler = data.train_dataloader().batch_sampler
    assert sorted(row for batch in sampler for row in batch) == list(range(29000))
