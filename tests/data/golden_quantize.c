/* quantize_a6699115: template host/quantize.c.j2, {"columns": 64} */
#define SYMBOL quantize_a6699115
#define COLUMNS 64
#include "quantize.h"
