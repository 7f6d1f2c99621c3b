"""The eyes of a model: the part of its bundle that encodes pictures, loaded beside its program as often as that is."""

from __future__ import annotations

from dataclasses import replace

from ...artifacts.bundle import Bundle
from ...artifacts.dataclass import dataclass
from ...artifacts.vision import VISION_PART
from ..device.batch import Float32, Program, close_program
from ..device.load import Report
from ..device.memory import KvSize
from ..pictures.encode import VisionPart, encode, load_vision, vision_of
from ..pictures.patches import Patches
from .picture_encoder import PictureEncoder


@dataclass(frozen=True, slots=True)
class Eyes:
    """A loaded part as a `VisionProgram`."""

    part: VisionPart

    def encode(self, patches: Patches) -> Float32:
        """See `VisionProgram`."""
        return encode(self.part, patches)

    def close(self) -> None:
        """See `VisionProgram`."""
        self.part.close()


@dataclass(frozen=True, slots=True)
class EyesLoader:
    """Loads the eyes of a bundle's model.

    Attributes:
        bundle: open.
        encoder: that encodes by them, however often they are loaded.
    """

    bundle: Bundle
    encoder: PictureEncoder

    def size(self, size: KvSize) -> KvSize:
        """What is asked for of the model, with room left for its eyes."""
        return replace(size, apart=tuple(self.bundle.part(VISION_PART).layouts.values()))

    def load(self, program: Program, report: Report) -> None:
        """Load them on the device of the model's program, which is closed where that fails.

        Raises:
            DeviceError: they have no code for that device, or memory does not suffice.
            BundleError: the manifest says of them what nobody can use.
        """
        try:
            self.encoder.attach(Eyes(load_vision(self.bundle, program, report)))
        except BaseException:
            close_program(program)
            raise


def eyes_loader(bundle: Bundle) -> EyesLoader | None:
    """What loads the eyes of a bundle's model; None where it has none.

    Raises:
        BundleError: the manifest says of them what nobody can use.
    """
    if VISION_PART not in bundle.manifest.parts:
        return None
    return EyesLoader(bundle, PictureEncoder(vision_of(bundle)))
