"""Bundle in, tokens and HTTP out."""
