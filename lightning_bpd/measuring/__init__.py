"""Decoding measured: decoders side by side, and what calls and proposals cost."""
