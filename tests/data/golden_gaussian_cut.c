/* gaussian_cut_c066a629: kernels/host/gaussian_cut.h, {"columns": 24, "deviations": "1.6f"} */
#define SYMBOL gaussian_cut_c066a629
#define COLUMNS 24
#define DEVIATIONS 1.6f
#include "gaussian_cut.h"
