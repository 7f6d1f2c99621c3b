/* quantize_a6699115: kernels/host/quantize.h, {"columns": 64} */
#define SYMBOL quantize_a6699115
#define COLUMNS 64
#include "quantize.h"
