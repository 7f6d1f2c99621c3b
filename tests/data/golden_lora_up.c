/* lora_up_0ea424f9: kernels/host/lora_up.h, {"adapters": 2, "at_logits_rows": true, "columns": 24, "num_segments": 3, "ranks": 10} */
#define SYMBOL lora_up_0ea424f9
#define ADAPTERS 2
#define AT_LOGITS_ROWS 1
#define COLUMNS 24
#define NUM_SEGMENTS 3
#define RANKS 10
#include "lora_up.h"
