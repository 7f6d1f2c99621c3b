/* expert_matmul_q4_1_17x64_3bb05dd9: kernels/host/expert_matmul.h, {"activation_bytes": 104, "columns": 64, "each": false, "experts": 5, "has_bias": true, "has_scale": true, "out_offset": 3, "out_stride": 40, "rows": 17, "used": 2, "weight_type": "Q4_1", "weighted": true} */
#define SYMBOL expert_matmul_q4_1_17x64_3bb05dd9
#define ACTIVATION_BYTES 104
#define COLUMNS 64
#define EACH 0
#define EXPERTS 5
#define HAS_BIAS 1
#define HAS_SCALE 1
#define OUT_OFFSET 3
#define OUT_STRIDE 40
#define ROWS 17
#define USED 2
#define QUANT_BITS 4
#define QUANT_OFFSET 0
#define SCALE_BYTES 4
#define SUPER_SCALE_BYTES 0
#define NUM_SCALES 1
#define HAS_MINIMUM 1
#define WEIGHTED 1
#include "expert_matmul.h"
