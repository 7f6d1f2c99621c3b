/* gate_up_q4_1_32x64_a3795fdf: template host/gate_up.c.j2, {"activation_bytes": 104, "columns": 64, "out_q8": false, "rows": 32, "weight_header": "weights_quantized.h", "weight_type": "Q4_1"} */
#define SYMBOL gate_up_q4_1_32x64_a3795fdf
#define ROWS 32
#define COLUMNS 64
#define OUT_Q8 0
#define ACTIVATION_BYTES 104
#define WEIGHT_Q4_1
#include "weights_quantized.h"
#include "gate_up.h"
