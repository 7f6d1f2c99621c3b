/* norm_4a663807: kernels/host/norm.h, {"at_logits_rows": false, "columns": 64, "epsilon": "1.000000000e-05f", "out_q8": true} */
#define SYMBOL norm_4a663807
#define AT_LOGITS_ROWS 0
#define COLUMNS 64
#define EPSILON 1.000000000e-05f
#define OUT_Q8 1
#include "norm.h"
