"""Names of files that may lie in a bundle's folder beside those of its manifest. They speak of the bundle and are no
part of it: its digest is the same with and without them.
"""

from __future__ import annotations

from typing import Final

SIGNATURE_NAME: Final = "model.sig"
PROVENANCE_NAME: Final = "provenance.sig"
BOM_NAME: Final = "bom.sig"
SIGNED_NAMES: Final = (SIGNATURE_NAME, PROVENANCE_NAME, BOM_NAME)
"""What somebody signed: it goes where the bundle goes."""
PULLED_NAME: Final = "pulled.json"
COMPANION_NAMES: Final = frozenset((*SIGNED_NAMES, PULLED_NAME))
MAX_COMPANION_BYTES: Final = 64 << 20
