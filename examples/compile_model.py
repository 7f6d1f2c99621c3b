"""Compile a GGUF model into a bundle: compile_model.py MODEL.gguf BUNDLE."""

import sys

import rocmforge
from rocmforge.compiler.progress import PlainProgress

bundle = rocmforge.compile(sys.argv[1], sys.argv[2], progress=PlainProgress())
print(bundle.path, bundle.digest)
