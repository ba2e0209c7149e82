"""Networks that we train."""

from lightning_bpd.models.encoder_decoder import Architecture, EncoderDecoder

__all__ = ["Architecture", "EncoderDecoder"]
