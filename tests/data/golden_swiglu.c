/* swiglu_1f702b81: template host/swiglu.c.j2, {"columns": 24} */
#define SYMBOL swiglu_1f702b81
#define COLUMNS 24
#include "swiglu.h"
