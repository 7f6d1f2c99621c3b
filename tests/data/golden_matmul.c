/* matmul_q4_1_17x64_3f4133ce: kernels/host/matmul.h, {"accumulate": false, "activation_bytes": 104, "at_logits_rows": true, "columns": 64, "has_bias": true, "out_offset": 3, "out_stride": 20, "rows": 17, "weight_type": "Q4_1"} */
#define SYMBOL matmul_q4_1_17x64_3f4133ce
#define ACCUMULATE 0
#define ACTIVATION_BYTES 104
#define AT_LOGITS_ROWS 1
#define COLUMNS 64
#define HAS_BIAS 1
#define OUT_OFFSET 3
#define OUT_STRIDE 20
#define ROWS 17
#define QUANT_BITS 4
#define QUANT_OFFSET 0
#define SCALE_BYTES 4
#define SUPER_SCALE_BYTES 0
#define NUM_SCALES 1
#define HAS_MINIMUM 1
#include "matmul.h"
