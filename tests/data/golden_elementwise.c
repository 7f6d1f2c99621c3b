/* elementwise_96a0e0cc: kernels/host/elementwise.h, {"at_logits_rows": false, "columns": 24, "combine": "add", "other_columns": 24, "other_stride": 0} */
#define SYMBOL elementwise_96a0e0cc
#define AT_LOGITS_ROWS 0
#define COLUMNS 24
#define COMBINE_ADD 1
#define OTHER_COLUMNS 24
#define OTHER_STRIDE 0
#include "elementwise.h"
