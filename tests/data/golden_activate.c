/* activate_ebc60521: kernels/host/activate.h, {"activation": "gelu", "at_logits_rows": false, "columns": 24, "out_q8": false} */
#define SYMBOL activate_ebc60521
#define ACTIVATION_GELU 1
#define AT_LOGITS_ROWS 0
#define COLUMNS 24
#define OUT_Q8 0
#include "activate.h"
