/* position_embedding_q4_1_0f3a38ec: kernels/host/position_embedding.h, {"columns": 64, "weight_type": "Q4_1"} */
#define SYMBOL position_embedding_q4_1_0f3a38ec
#define COLUMNS 64
#define QUANT_BITS 4
#define QUANT_OFFSET 0
#define SCALE_BYTES 4
#define SUPER_SCALE_BYTES 0
#define NUM_SCALES 1
#define HAS_MINIMUM 1
#include "position_embedding.h"
