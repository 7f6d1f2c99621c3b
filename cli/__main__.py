"""`python -m rocmforge.cli`."""

from .main import main

main(prog_name="rfc")
