"""What tokens mean: text, image levels; tokenizers and their files."""
