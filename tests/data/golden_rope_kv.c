/* rope_kv_48eaef56: kernels/host/rope_kv.h, {"epsilon": "1.000000000e-05f", "head_dim": 32, "interleaved": true, "kv_q8_0": true, "num_heads": 2, "num_kv_heads": 1, "qk_norm": false, "rope_dim": 16} */
#define SYMBOL rope_kv_48eaef56
#define EPSILON 1.000000000e-05f
#define HEAD_DIM 32
#define INTERLEAVED 1
#define KV_Q8_0 1
#define NUM_HEADS 2
#define NUM_KV_HEADS 1
#define QK_NORM 0
#define ROPE_DIM 16
#include "rope_kv.h"
