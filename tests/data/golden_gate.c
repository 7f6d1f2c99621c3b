/* gate_f97f187d: kernels/host/gate.h, {"activation": "silu", "columns": 24} */
#define SYMBOL gate_f97f187d
#define ACTIVATION_SILU 1
#define COLUMNS 24
#include "gate.h"
