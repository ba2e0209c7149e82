"""Codecs, which give tokens a meaning: text, image levels; tokenizers and their files."""
