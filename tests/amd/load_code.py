"""Loads a bundle's code for an arch by HIP, and finds every kernel in it; prints how many.

python -m rocmforge.tests.amd.load_code BUNDLE ARCH
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.runtime.device.hip.api import check, load_hip


def main() -> None:
    """Load it."""
    path, arch = sys.argv[1:]
    api = load_hip()
    with open_bundle(Path(path)) as bundle:
        target = next(target for target in bundle.manifest.targets if target.arch == arch)
        code, layout = bundle.read(target.file), bundle.layout_of(target)
    image, module = ctypes.create_string_buffer(code, len(code)), ctypes.c_void_p()
    check(api, api.hipSetDevice(0), "the device")
    check(api, api.hipModuleLoadData(ctypes.byref(module), image), "load")
    kernels = {launch.kernel for launch in layout.launches}
    for kernel in sorted(kernels):
        function = ctypes.c_void_p()
        check(api, api.hipModuleGetFunction(ctypes.byref(function), module, kernel.encode()), kernel)
    check(api, api.hipModuleUnload(module), "unload")
    print(len(kernels))


if __name__ == "__main__":
    main()
