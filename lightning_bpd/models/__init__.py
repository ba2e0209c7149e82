"""Networks that we train."""

from lightning_bpd.models.encoder_decoder import Architecture, EncoderDecoder
from lightning_bpd.models.image_transformer import ImageArchitecture, ImageTransformer

# The networks that finished models and training modules hold.
Network = EncoderDecoder | ImageTransformer

__all__ = ["Architecture", "EncoderDecoder", "ImageArchitecture", "ImageTransformer", "Network"]
