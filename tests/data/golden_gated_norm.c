/* gated_norm_ea4f295a: kernels/host/gated_norm.h, {"activation": "silu", "columns": 96, "epsilon": "1.0e-05f", "gate_first": 3, "gate_stride": 112, "group": 32, "norm": "before", "out_q8": true, "weight_columns": 32} */
#define SYMBOL gated_norm_ea4f295a
#define ACTIVATION_SILU 1
#define COLUMNS 96
#define EPSILON 1.0e-05f
#define GATE_FIRST 3
#define GATE_STRIDE 112
#define GROUP 32
#define NORM_BEFORE 1
#define OUT_Q8 1
#define WEIGHT_COLUMNS 32
#include "gated_norm.h"
