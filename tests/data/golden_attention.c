/* attention_c8eba46f: template host/attention.c.j2, {"head_dim": 32, "num_heads": 2, "num_kv_heads": 1, "out_q8": true, "scale": "1.767766953e-01f"} */
#define SYMBOL attention_c8eba46f
#define NUM_HEADS 2
#define NUM_KV_HEADS 1
#define HEAD_DIM 32
#define SCALE 1.767766953e-01f
#define OUT_Q8 1
#include "attention.h"
