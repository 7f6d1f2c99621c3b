/* token_logits_d6228d82: kernels/host/token_logits.h, {"at_logits_rows": true, "columns": 24, "stride": 10} */
#define SYMBOL token_logits_d6228d82
#define AT_LOGITS_ROWS 1
#define COLUMNS 24
#define STRIDE 10
#include "token_logits.h"
