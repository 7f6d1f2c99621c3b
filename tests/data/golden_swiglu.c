/* swiglu_1f702b81: kernels/host/swiglu.h, {"columns": 24} */
#define SYMBOL swiglu_1f702b81
#define COLUMNS 24
#include "swiglu.h"
