"""Networks that we train."""

from lightning_bpd.models.encoder_decoder import Architecture, EncoderDecoder
from lightning_bpd.models.image_transformer import ImageArchitecture, ImageTransformer
from lightning_bpd.models.token_transformer import TokenShape, TokenTransformer
from lightning_bpd.network import Network, NetworkShape

__all__ = [
    "Architecture",
    "EncoderDecoder",
    "ImageArchitecture",
    "ImageTransformer",
    "Network",
    "NetworkShape",
    "TokenShape",
    "TokenTransformer",
]
