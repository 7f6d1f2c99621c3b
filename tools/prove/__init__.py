"""Proofs in one command each: the chain of supply, attacked; certificates of equivalence with an older version."""
