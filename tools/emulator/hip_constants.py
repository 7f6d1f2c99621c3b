"""Numbers of hip_runtime_api.h that the emulator returns or takes."""

from __future__ import annotations

SUCCESS = 0
INVALID_VALUE = 1
INVALID_CONFIGURATION = 9
OUT_OF_MEMORY = 2
INVALID_MEMCPY_DIRECTION = 21
INVALID_DEVICE = 101
INVALID_IMAGE = 200
INVALID_CONTEXT = 201
NO_BINARY_FOR_GPU = 209
INVALID_HANDLE = 400
NOT_FOUND = 500
NOT_READY = 600
ILLEGAL_ADDRESS = 700
LAUNCH_FAILURE = 719
STREAM_CAPTURE_UNSUPPORTED = 900
STREAM_CAPTURE_INVALIDATED = 901
ILLEGAL_STATE = 401
UNKNOWN = 999

# Number to (name, text), as AMD's library has them.
ERRORS = {
    0: ("hipSuccess", "no error"),
    1: ("hipErrorInvalidValue", "invalid argument"),
    2: ("hipErrorOutOfMemory", "out of memory"),
    3: ("hipErrorNotInitialized", "initialization error"),
    4: ("hipErrorDeinitialized", "driver shutting down"),
    9: ("hipErrorInvalidConfiguration", "invalid configuration argument"),
    21: ("hipErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"),
    98: ("hipErrorInvalidDeviceFunction", "invalid device function"),
    100: ("hipErrorNoDevice", "no ROCm-capable device is detected"),
    101: ("hipErrorInvalidDevice", "invalid device ordinal"),
    200: ("hipErrorInvalidImage", "device kernel image is invalid"),
    201: ("hipErrorInvalidContext", "invalid device context"),
    209: ("hipErrorNoBinaryForGpu", "no kernel image is available for execution on the device"),
    214: ("hipErrorECCNotCorrectable", "uncorrectable ECC error encountered"),
    218: ("hipErrorInvalidKernelFile", "invalid kernel file"),
    303: ("hipErrorSharedObjectInitFailed", "shared object initialization failed"),
    400: ("hipErrorInvalidHandle", "invalid resource handle"),
    401: ("hipErrorIllegalState", "the operation cannot be performed in the present state"),
    500: ("hipErrorNotFound", "named symbol not found"),
    600: ("hipErrorNotReady", "device not ready"),
    700: ("hipErrorIllegalAddress", "an illegal memory access was encountered"),
    701: ("hipErrorLaunchOutOfResources", "too many resources requested for launch"),
    702: ("hipErrorLaunchTimeOut", "the launch timed out and was terminated"),
    709: ("hipErrorContextIsDestroyed", "context is destroyed"),
    710: ("hipErrorAssert", "device-side assert triggered"),
    719: ("hipErrorLaunchFailure", "unspecified launch failure"),
    720: ("hipErrorCooperativeLaunchTooLarge", "too many blocks in cooperative launch"),
    801: ("hipErrorNotSupported", "operation not supported"),
    900: ("hipErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"),
    901: ("hipErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"),
    906: (
        "hipErrorStreamCaptureImplicit",
        "operation would make the legacy stream depend on a capturing blocking stream",
    ),
    999: ("hipErrorUnknown", "unknown error"),
}

COPY_HOST_TO_HOST, COPY_HOST_TO_DEVICE, COPY_DEVICE_TO_HOST, COPY_DEVICE_TO_DEVICE, COPY_DEFAULT = range(5)
LAUNCH_PARAM_BUFFER_POINTER, LAUNCH_PARAM_BUFFER_SIZE, LAUNCH_PARAM_END = 1, 2, 3

# Values of hipDeviceAttribute_t.
ATTRIBUTE_CLOCK_RATE = 5
ATTRIBUTE_INTEGRATED = 16
ATTRIBUTE_L2_CACHE_SIZE = 19
ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 23
ATTRIBUTE_MAX_BLOCK_DIM = (26, 27, 28)
ATTRIBUTE_MAX_GRID_DIM = (29, 30, 31)
ATTRIBUTE_MAX_THREADS_PER_BLOCK = 56
ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR = 57
ATTRIBUTE_MEMORY_BUS_WIDTH = 59
ATTRIBUTE_MEMORY_CLOCK_RATE = 60
ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 61
ATTRIBUTE_MULTIPROCESSOR_COUNT = 63
ATTRIBUTE_PCI_BUS_ID = 67
ATTRIBUTE_PCI_DEVICE_ID = 68
ATTRIBUTE_PCI_DOMAIN_ID = 69
ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK = 74
ATTRIBUTE_UNIFIED_ADDRESSING = 85
ATTRIBUTE_WARP_SIZE = 87
ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR = 10002
