/* attention_d3d7d9da: template host/attention.c.j2, {"head_dim": 32, "kv_q8_0": false, "num_heads": 2, "num_kv_heads": 1, "out_q8": true, "scale": "1.767766953e-01f"} */
#define SYMBOL attention_d3d7d9da
#define NUM_HEADS 2
#define NUM_KV_HEADS 1
#define HEAD_DIM 32
#define SCALE 1.767766953e-01f
#define OUT_Q8 1
#define KV_Q8_0 0
#include "attention.h"
