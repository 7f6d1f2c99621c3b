"""Who made a bundle: signatures and attestations, by the libraries of the extra `sign`."""
