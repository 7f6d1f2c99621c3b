/* expert_sum_e469fd6a: kernels/host/expert_sum.h, {"columns": 24, "scale": "0.5f", "used": 3, "weighted": false} */
#define SYMBOL expert_sum_e469fd6a
#define COLUMNS 24
#define SCALE 0.5f
#define USED 3
#define WEIGHTED 0
#include "expert_sum.h"
