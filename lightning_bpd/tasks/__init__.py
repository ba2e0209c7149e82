"""What tokens mean: text codecs and finished models."""
