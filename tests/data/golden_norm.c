/* norm_4a663807: template host/norm.c.j2, {"at_logits_rows": false, "columns": 64, "epsilon": "1.000000000e-05f", "out_q8": true} */
#define SYMBOL norm_4a663807
#define COLUMNS 64
#define EPSILON 1.000000000e-05f
#define OUT_Q8 1
#define AT_LOGITS_ROWS 0
#include "norm.h"
