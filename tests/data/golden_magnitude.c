/* magnitude_641d8d7e: kernels/host/magnitude.h, {"columns": 24, "groups": 3, "joined": true, "least": "1.0e-05f"} */
#define SYMBOL magnitude_641d8d7e
#define COLUMNS 24
#define GROUPS 3
#define JOINED 1
#define LEAST 1.0e-05f
#include "magnitude.h"
