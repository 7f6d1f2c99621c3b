/* attention_d3d7d9da: kernels/host/attention.h, {"head_dim": 32, "kv_q8_0": false, "num_heads": 2, "num_kv_heads": 1, "out_q8": true, "scale": "1.767766953e-01f"} */
#define SYMBOL attention_d3d7d9da
#define HEAD_DIM 32
#define KV_Q8_0 0
#define NUM_HEADS 2
#define NUM_KV_HEADS 1
#define OUT_Q8 1
#define SCALE 1.767766953e-01f
#include "attention.h"
