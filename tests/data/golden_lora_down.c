/* lora_down_9662d51b: kernels/host/lora_down.h, {"adapters": 2, "at_logits_rows": false, "columns": 24, "num_segments": 3, "ranks": 10} */
#define SYMBOL lora_down_9662d51b
#define ADAPTERS 2
#define AT_LOGITS_ROWS 0
#define COLUMNS 24
#define NUM_SEGMENTS 3
#define RANKS 10
#include "lora_down.h"
