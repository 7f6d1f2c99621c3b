/* columns_91d2b098: kernels/host/columns.h, {"columns": 24, "first": 7, "stride": 40} */
#define SYMBOL columns_91d2b098
#define COLUMNS 24
#define FIRST 7
#define STRIDE 40
#include "columns.h"
