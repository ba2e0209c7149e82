"""Blockwise decoding under transformers' own ``generate`` (floor 2)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from lightning_bpd.codecs.codec import check_decoding
from lightning_bpd.codecs.hugging_face import HuggingFaceCodec
from lightning_bpd.decoding import GREEDY, DecodingOptions, JacobiDrafter, Sampled, parse_acceptance
from lightning_bpd.decoding import blockwise as decode_by_blocks
from lightning_bpd.drafters import TrainedDrafter
from lightning_bpd.interfaces import Drafter, InputError, Sampler, TokenRows
from lightning_bpd.saved.finished_model import read_heads

if TYPE_CHECKING:
    from lightning_bpd.adapters import ModelAdapter

Generation = Callable[..., Any]
"""what ``model.generate(custom_generate=...)`` takes"""


def blockwise(
    folder: str | Path,
    model: Any,
    *,
    block_size: int | None = None,
    acceptance: str = "exact",
    seed: int | None = None,
) -> Generation:
    """Let a model that transformers has loaded generate several tokens a call, by the block heads of a finished model.

    ``model.generate(**inputs, custom_generate=lightning_bpd.blockwise(folder, model))`` returns what
    ``model.generate(**inputs, do_sample=False, num_beams=1)`` returns, for any batch, in fewer calls (except for
    near-ties, where two tokens are equally probable to the last digits). Prompts may be padded at either end: each row
    goes on from its own last token. With ``return_dict_in_generate=True`` the output has ``calls`` (int64 [B]) and
    ``accepted`` (int64 [B, I]) beside ``sequences``. A setting that cannot be honoured is an InputError that names it.

    With ``do_sample=True``, tokens are drawn with the noise of ``decoding.Sampled``: the same seed gives the same
    tokens for any block size, but not those of transformers' own sampling.

    Transformers keeps two settings back: an ``assistant_model`` is not used, and a streamer gets the prompt and is
    never ended, so a thread that reads a TextIteratorStreamer waits for ever.

    Args:
        folder: The finished model, of which the heads alone are read.
        model: The Hugging Face model that they were trained on, in eval mode, where it is to stay. It may be of another
            type than in training if that holds the same weights, such as bfloat16 for a model that was stored so; not
            a Marian, whose tables of sinusoids are others in each type.
        block_size: Tokens that a call verifies; as many as the heads were trained for by default.
        acceptance: Which proposals stay: ``exact`` or ``adaptive`` for the very tokens of generate, or ``top-2``.
        seed: Selects the noise of ``do_sample=True``; drawn from torch's generator at each call if not given.

    Raises:
        InputError: The heads belong to another base or have a first head of their own, or the model cannot be decoded
            exactly.
    """
    from lightning_bpd.adapters import adopt

    adapter = adopt(model)
    heads = read_heads(folder, adapter).to(adapter.device).eval()
    check_first_head(heads)
    return make_generation(adapter, heads.drafter(adapter), block_size, acceptance, seed)


def check_first_head(heads: TrainedDrafter) -> None:
    """Raise InputError if the drafter decides in the model's place."""
    if heads.first == 1:
        raise InputError(
            "these heads have a first one of their own (first_head: learned), which decides in the model's place: "
            "generate cannot give what it says; lightning_bpd.load(FOLDER).translate does"
        )


def make_generation(
    network: ModelAdapter,
    drafter: Drafter,
    block_size: int | None = None,
    acceptance: str = "exact",
    seed: int | None = None,
) -> Generation:
    """The same of what is loaded.

    Args:
        network: The model.
        drafter: What proposes blocks.
        block_size: Tokens that a call verifies; the drafter's largest if not given.
        acceptance: Which proposals stay.
        seed: Selects the noise of sampling; drawn from torch's generator at each call if not given.

    Raises:
        InputError: The numbers make no sense.
    """
    from lightning_bpd.adapters import Request

    options = DecodingOptions("blockwise", block_size=block_size, acceptance=acceptance)
    check_decoding(options, drafter.block_size, HuggingFaceCodec)  # type: ignore[arg-type]  # its constants are asked
    rule, most = parse_acceptance(acceptance), block_size or drafter.block_size
    where = network.output_weight.device, network.output_weight.dtype

    def generate(
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **given: Any,
    ) -> Any:
        """One call of ``model.generate``, from its decoding loop on."""
        if model is not network.model:
            raise InputError("this custom_generate was made for another model: make one of this model")
        if (network.output_weight.device, network.output_weight.dtype) != where:
            raise InputError(
                "the model has moved, or changed its type, since: make its custom_generate again"
            )
        request = Request(network, input_ids, logits_processor, stopping_criteria, generation_config, given)
        if request.room < 1:
            return request.output(None)
        continuation = request.continuation()
        source = TokenRows(request.rows, torch.full_like(request.rows[:, 0], request.rows.size(1)))
        sampler: Sampler = GREEDY
        if request.sample:
            drawn = int(torch.randint(2**62, ())) if seed is None else seed
            sampler = Sampled(**request.sampling, seed=drawn)
        # The continuation alone limits how long rows become.
        extra = continuation.max_length
        result = decode_by_blocks(continuation, drafter, source, most, rule, extra, sampler)
        return request.output(result)

    return generate


def jacobi(
    model: Any, *, window: int = 8, guess: Literal["left", "random"] = "left", seed: int | None = None
) -> Generation:
    """Let a model that transformers has loaded generate several tokens a call by speculative Jacobi decoding.

    ``model.generate(**inputs, custom_generate=lightning_bpd.jacobi(model))`` returns what ``blockwise`` returns, and
    needs no heads: the proposals are the model's own choices of the call before.

    Args:
        model: The Hugging Face model, in eval mode.
        window: Tokens that a call verifies.
        guess: What a position is taken for that no call has predicted yet: the token at its left, or a random one.
        seed: Selects the noise of ``do_sample=True``; drawn from torch's generator at each call if not given.

    Raises:
        InputError: The model cannot be decoded exactly, or the window is out of range.
    """
    from lightning_bpd.adapters import adopt

    return make_generation(adopt(model), JacobiDrafter(window, guess), seed=seed)
