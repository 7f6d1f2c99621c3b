/* logits_map_57e82ecd: kernels/host/logits_map.h, {"at_logits_rows": true, "columns": 24, "scale": "1.0f", "softcap": "30.0f"} */
#define SYMBOL logits_map_57e82ecd
#define AT_LOGITS_ROWS 1
#define COLUMNS 24
#define SCALE 1.0f
#define SOFTCAP 30.0f
#include "logits_map.h"
