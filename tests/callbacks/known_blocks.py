"""A model whose every block is known beforehand, its data, and a trainer for both."""

import csv
import json

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from lightning_bpd.callbacks.block_measurement import BlockRule
from lightning_bpd.codecs.text import TextCodec
from lightning_bpd.decoding import DecodingOptions
from lightning_bpd.interfaces import ParallelBatch, Proposal, TokenRows
from lightning_bpd.training.step_loss import leave_together

BOS, EOS = 1, 2
BLOCK_SIZE = 3
# p_1 repeats its source. The heads know what comes, save that they take 7, which p_1's second choice is 8 for, for 8.
ROWS = [
    [5, 6, 7, 6, 5, EOS],
    [7, 7, EOS],
    [5, 5, 5, 5, 5, 5, EOS],
    [EOS],
    [6, 7, EOS],
    [6, 5, EOS],
    [7, 6, 5, 6, EOS],
]
SIZES = [[2, 3, 1], [1, 2], [3, 3, 1], [1], [1, 2], [3], [3, 2]]
CALLS = [3, 3, 3, 1, 3, 2, 3]
# Of the same rows at a block size of 2 under top-2, where the 8 stays and nothing is ever rejected.
SIZES_TOP_2 = [[2, 2, 2], [2, 1], [2, 2, 2, 1], [1], [2, 1], [2, 1], [2, 2, 1]]
CALLS_TOP_2 = [4, 2, 4, 1, 2, 2, 3]
TOP_2 = BlockRule(2, "top-2")


def pad(rows):
    tokens = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    return TokenRows(tokens, torch.tensor([len(row) for row in rows]))


class State:
    memory = None

    def __init__(self, rows):
        self.rows = rows
        self.lengths = torch.zeros(len(rows), dtype=torch.long)

    def rewind(self, lengths):
        self.lengths = lengths.clone()

    def reorder(self, rows):
        self.rows, self.lengths = self.rows[rows], self.lengths[rows]


class Copy:
    """Its hidden state is the tokens to come. ``clock`` counts calls; ``autocast`` whether the last was under it."""

    bos_id, ends, max_length = BOS, frozenset((EOS,)), None
    clock = 0
    autocast = None

    def start(self, source, rows, max_length):
        ended = torch.arange(source.tokens.size(1)) >= source.lengths[:, None]
        return State(torch.nn.functional.pad(source.tokens.masked_fill(ended, EOS), (0, 50), value=EOS))

    def step(self, tokens, state):
        Copy.clock += 1
        Copy.autocast = torch.is_autocast_enabled("cpu")
        places = state.lengths[:, None] + torch.arange(tokens.size(1))
        state.lengths = state.lengths + tokens.size(1)
        ahead = places[:, :, None] + torch.arange(BLOCK_SIZE)
        return state.rows.gather(1, ahead.flatten(1)).view(ahead.shape).float()

    def project(self, hidden):
        first = torch.nn.functional.one_hot(hidden[..., 0].long(), 10)
        return 2.0 * first + torch.nn.functional.one_hot(torch.tensor(8), 10)


class Heads:
    block_size = BLOCK_SIZE

    def __init__(self, able=True):
        self.able = able

    def start(self, source, max_length, sampler, memory):
        pass

    def reorder(self, rows):
        pass

    def proposals(self, hidden, following, positions, rows, count):
        ahead = hidden[..., 1 : count + 1].long()
        return Proposal(ahead.where(ahead != 7, 8) if self.able else torch.full_like(ahead, 9))

    def propose(self, verified, following, count):
        last = verified.hidden[torch.arange(len(following)), verified.accepted - 1]
        return self.proposals(last, following, verified.positions, verified.rows, count)


class Tokenizer:
    eos_id = EOS

    def decode(self, rows):
        return [" ".join(f"w{token}" for token in row if token > EOS) for row in rows]


class Plain(pl.LightningModule):
    """One weight that training never brings to where the heads would fail."""

    def __init__(self, folder=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.part = torch.nn.Dropout()
        self.folder = folder
        self.steps = 0

    def training_step(self, batch, batch_index):
        assert self.training
        assert self.part.training
        self.steps += 1
        return self.weight**2

    def validation_step(self, batch, batch_index):
        pass

    def test_step(self, batch, batch_index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)

    def on_validation_end(self):
        if self.folder is not None:
            metrics = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"{self.global_rank}.json").write_text(json.dumps(metrics))


class Module(Plain):
    decode = DecodingOptions(extra_length=5)

    def setup(self, stage):
        leave_together()

    @property
    def data(self):
        return self.trainer.datamodule

    def block_decoder(self):
        return Copy(), Heads(able=bool(self.weight > 0))


class Data(pl.LightningDataModule):
    """Batches of two rows, the last of one, dealt out to the ranks; the order is not that of the corpus."""

    codec = TextCodec(Tokenizer(), Tokenizer())

    def train_dataloader(self):
        return DataLoader(self.batches()[:2], batch_size=None)

    def val_dataloader(self):
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        return DataLoader(self.batches()[rank::ranks], batch_size=None)

    test_dataloader = val_dataloader

    def batches(self):
        order = [6, 0, 3, 1, 5, 2, 4]
        chosen = [order[first : first + 2] for first in range(0, len(order), 2)]
        return [
            ParallelBatch(rows := pad([ROWS[i] for i in part]), rows, torch.tensor(part)) for part in chosen
        ]

    def sources(self, stage):
        return [f"{stage} source {i}" for i in range(len(ROWS))]

    def references(self, stage):
        return Tokenizer().decode(ROWS)


def trainer(folder, *callbacks, **options):
    torch.set_num_threads(1)
    defaults = {
        "enable_checkpointing": any(isinstance(each, Checkpoint) for each in callbacks),
        "accelerator": "cpu", "devices": 1, "default_root_dir": folder, "callbacks": list(callbacks), "logger": False,
        "enable_progress_bar": False, "enable_model_summary": False,
        "use_distributed_sampler": False, "num_sanity_val_steps": 0, "max_epochs": 1, "log_every_n_steps": 1,
    }  # fmt: skip
    return pl.Trainer(**{**defaults, **options})


def sizes_file(folder):
    with (folder / "accepted_sizes.csv").open() as file:
        return list(csv.DictReader(file))


def flat(rows):
    return [size for row in rows for size in row]


def mean(rows):
    return sum(flat(rows)) / len(flat(rows))


def validated(folder, *callbacks, module=None, **options):
    loop = trainer(folder, *callbacks, **options)
    loop.validate(module or Module(), datamodule=Data(), verbose=False)
    return {name: float(value) for name, value in loop.callback_metrics.items()}
