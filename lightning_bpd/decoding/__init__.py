"""Decoding algorithms, which use a model through its contract only."""

from __future__ import annotations

from lightning_bpd.decoding.acceptance import (
    Adaptive,
    Distance,
    Exact,
    MinimumBlock,
    Speculative,
    TopK,
    parse_acceptance,
)
from lightning_bpd.decoding.beam import beam_search
from lightning_bpd.decoding.blockwise import blockwise
from lightning_bpd.decoding.canvas import FixedPlan, fill, fixed_plan
from lightning_bpd.decoding.certificate import Verdict, compare
from lightning_bpd.decoding.costs import decoding_costs
from lightning_bpd.decoding.jacobi import JacobiDrafter
from lightning_bpd.decoding.options import Compile, DecodingOptions, compiling, decode
from lightning_bpd.decoding.replay import replay
from lightning_bpd.decoding.samplers import Greedy, Sampled, make_sampler
from lightning_bpd.decoding.sequential import GREEDY, greedy, sequential

__all__ = [
    "GREEDY",
    "Adaptive",
    "Compile",
    "DecodingOptions",
    "Distance",
    "Exact",
    "FixedPlan",
    "Greedy",
    "JacobiDrafter",
    "MinimumBlock",
    "Sampled",
    "Speculative",
    "TopK",
    "Verdict",
    "beam_search",
    "blockwise",
    "compare",
    "compiling",
    "decode",
    "decoding_costs",
    "fill",
    "fixed_plan",
    "greedy",
    "make_sampler",
    "parse_acceptance",
    "replay",
    "sequential",
]
