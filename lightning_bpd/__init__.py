"""Training, decoding and measuring blockwise parallel decoding models."""
