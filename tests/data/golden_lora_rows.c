/* lora_rows_5682e744: kernels/host/lora_rows.h, {"adapters": 2, "at_logits_rows": false, "num_segments": 3, "ranks": 10} */
#define SYMBOL lora_rows_5682e744
#define ADAPTERS 2
#define AT_LOGITS_ROWS 0
#define NUM_SEGMENTS 3
#define RANKS 10
#include "lora_rows.h"
