"""A new idea of each kind, as a user would write it: drafter, acceptance rule, sampler, network and codec."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from lightning_bpd.codecs.text import TextualCodec
from lightning_bpd.drafters import DrafterShape, TrainedDrafter
from lightning_bpd.drafters.group_losses import Batch, group_losses
from lightning_bpd.interfaces import Decision, Memory, Proposal, Reading, Sampler
from lightning_bpd.models import Network, NetworkShape


@dataclass(frozen=True)
class NextOfToken(DrafterShape):
    """What follows a token is looked up in a learned table, again and again."""

    block_size: int = 3
    width: int = 8
    candidates: int | None = None

    def build(self, base):
        return BigramDrafter(base, self)


class BigramDrafter(TrainedDrafter):
    def __init__(self, base, shape):
        super().__init__(shape, shape.candidates)
        vocabulary, width = base.output_weight.shape
        self.before = nn.Embedding(vocabulary, shape.width)
        self.after = nn.ModuleList(nn.Linear(shape.width, width) for _ in range(shape.block_size - 1))

    def outputs(self, tokens, count):
        seen = self.before(tokens)
        return torch.stack([layer(seen) for layer in self.after[:count]], -2)

    def losses(self, base, reading, rows, which, weights=None, temperature=None, divisor=None):
        batch = Batch.of(base, reading, rows, which.stop - 3, None)

        def outputs():
            every = self.outputs(batch.rows.tokens, which.stop - 2)
            sizes = [every.size(1), *batch.groups.counts]
            return torch.cat([every[:, :size, depth] for depth, size in enumerate(sizes)], 1)

        shares = torch.ones(len(which)) if weights is None else weights
        return group_losses(self, batch, outputs, which, shares, temperature, divisor)

    def drafter(self, base):
        return Bigrams(self, base)


class Bigrams:
    def __init__(self, module, base):
        self.module, self.base, self.block_size = module, base, module.block_size

    def start(self, source, max_length, sampler, memory):
        self.sampler = sampler

    def propose(self, verified, following, count):
        logits = self.base.project(self.module.outputs(following, count))
        return Proposal(self.sampler.choose(logits, verified.positions + verified.accepted, verified.rows))

    def reorder(self, rows):
        pass


class Half:
    """Lets proposals stand while they are p_1's choice, and never more than half of a block."""

    name, ordinal = "half", False

    def decide(self, block, logits, choices):
        agree = (block.tokens[:, 1:] == choices[:, :-1]).long().cumprod(1).sum(1)
        accepted = 1 + agree.clamp(max=block.tokens.size(1) // 2)
        return Decision(accepted, choices.gather(1, accepted[:, None] - 1)[:, 0])


@dataclass(frozen=True)
class Without(Sampler):
    """Chooses the most probable token, and never one of the tokens."""

    token: int = 0

    def scores(self, logits, positions, rows, tokens=None):
        ids = torch.arange(logits.size(-1), device=logits.device) if tokens is None else tokens
        return logits.masked_fill(ids == self.token, -torch.inf)

    def choose(self, logits, positions, rows, tokens=None):
        best = self.scores(logits, positions, rows, tokens).argmax(-1)
        return best if tokens is None else tokens[best]

    def probabilities(self, logits):
        return None


@dataclass(frozen=True)
class Window(NetworkShape):
    """Sees the mean of the source, and few target tokens."""

    d_model: int = 48
    feed_forward: int = 48
    seen: int = 4

    def build(self, vocabularies):
        return WindowNetwork(self, vocabularies)


class WindowNetwork(Network):
    output_bias = max_length = None

    def __init__(self, shape, vocabularies):
        super().__init__()
        self.architecture, self.vocabularies = shape, vocabularies
        self.bos_id, self.ends = vocabularies.bos_id, frozenset((vocabularies.eos_id,))
        self.source = nn.Embedding(vocabularies.source_vocabulary, shape.d_model)
        self.before = nn.ModuleList(
            nn.Embedding(vocabularies.target_vocabulary, shape.d_model) for _ in range(shape.seen)
        )
        self.inner = nn.Linear(shape.d_model, shape.d_model)
        self.output = nn.Linear(shape.d_model, vocabularies.target_vocabulary, bias=False)

    @property
    def output_weight(self):
        return self.output.weight

    def read(self, source, target):
        memory = self._memory(source)
        padded = F.pad(target, (self.architecture.seen - 1, 0), value=self.bos_id)
        return Reading(self._hidden(memory.states, padded.unfold(1, self.architecture.seen, 1)), memory)

    def start(self, source, rows, max_length):
        return WindowState(self, self._memory(source), rows, max_length)

    def step(self, tokens, state):
        return self._hidden(state.states, state.append(tokens))

    def project(self, hidden):
        return self.output(hidden)

    def _memory(self, source):
        inside = torch.arange(source.tokens.size(1), device=source.tokens.device) < source.lengths[:, None]
        tokens = source.tokens.masked_fill(~inside, 0)
        summed = (self.source(tokens) * inside[..., None]).sum(1, keepdim=True)
        return Memory(summed / source.lengths[:, None, None], None)

    def _hidden(self, states, windows):
        seen = sum(table(windows[..., place]) for place, table in enumerate(self.before))
        return torch.tanh(self.inner(torch.tanh(seen + states)))


class WindowState:
    def __init__(self, network, memory, rows, max_length):
        self.memory, self.seen = memory, network.architecture.seen
        self.states = memory.states if rows is None else memory.states[rows]
        count, device = len(self.states), self.states.device
        self.tokens = torch.full((count, max_length + self.seen), network.bos_id, device=device)
        self.lengths = torch.zeros(count, dtype=torch.long, device=device)

    def append(self, tokens):
        """Store tokens; return what each of them and those before it are, [B, T, seen]."""
        positions = self.lengths[:, None] + torch.arange(tokens.size(1), device=tokens.device)
        self.tokens.scatter_(1, positions + self.seen - 1, tokens)
        self.lengths = self.lengths + tokens.size(1)
        windows = positions[..., None] + torch.arange(self.seen, device=tokens.device)
        return self.tokens.gather(1, windows.flatten(1)).view(windows.shape)

    def rewind(self, lengths):
        self.lengths = lengths.to(self.lengths.device)

    def reorder(self, rows):
        self.states, self.tokens, self.lengths = self.states[rows], self.tokens[rows], self.lengths[rows]


class Letters:
    """Each letter of an alphabet is a token."""

    prefix, keeps_end, unknown_id = (), False, 0

    def __init__(self, alphabet):
        self.alphabet = alphabet
        self.bos_id, self.eos_id = len(alphabet) + 1, len(alphabet) + 2
        self.vocab_size = len(alphabet) + 3
        self.suffix = (self.eos_id,)
        self.fingerprint = alphabet.encode().hex()[:16]

    def encode(self, lines):
        return [[self.alphabet.find(letter) + 1 for letter in line.lower()] for line in lines]

    def decode(self, rows, keep_lines=False):
        return ["".join(self.alphabet[token - 1] for token in row if 0 < token < self.bos_id) for row in rows]


@dataclass(frozen=True)
class Spelling(TextualCodec):
    """Text as letters: there is no tokenizer to train, and nothing but the alphabet to store."""

    alphabet: str = "abcdefghijklmnopqrstuvwxyz .,"
    bleu_tokenizer: str = "13a"

    @property
    def source(self):
        return Letters(self.alphabet)

    target = source
