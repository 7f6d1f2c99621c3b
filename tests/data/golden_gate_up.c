/* gate_up_q4_1_32x64_1d01f4b0: kernels/host/gate_up.h, {"activation": "silu", "activation_bytes": 104, "columns": 64, "out_q8": false, "rows": 32, "weight_type": "Q4_1"} */
#define SYMBOL gate_up_q4_1_32x64_1d01f4b0
#define ACTIVATION_SILU 1
#define ACTIVATION_BYTES 104
#define COLUMNS 64
#define OUT_Q8 0
#define ROWS 32
#define QUANT_BITS 4
#define QUANT_OFFSET 0
#define SCALE_BYTES 4
#define SUPER_SCALE_BYTES 0
#define NUM_SCALES 1
#define HAS_MINIMUM 1
#include "gate_up.h"
