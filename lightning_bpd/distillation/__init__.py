"""A teacher's translations of a corpus as training data (Kim and Rush 2016; Stern et al. 2018, section 6.2)."""
