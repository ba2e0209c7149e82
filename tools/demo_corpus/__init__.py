"""Generate a parallel corpus with a grammar of our own: one choice of words, rendered in English and in German."""
