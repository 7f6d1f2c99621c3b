/* short_conv_8e12c28e: kernels/host/short_conv.h, {"activation": "silu", "channels": 24, "first": 7, "has_bias": true, "state_bytes": 320, "stride": 40, "taps": 4} */
#define SYMBOL short_conv_8e12c28e
#define ACTIVATION_SILU 1
#define CHANNELS 24
#define FIRST 7
#define HAS_BIAS 1
#define STATE_BYTES 320
#define STRIDE 40
#define TAPS 4
#include "short_conv.h"
