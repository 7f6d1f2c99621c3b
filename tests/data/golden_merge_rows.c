/* merge_rows_4febd84d: kernels/host/merge_rows.h, {"columns": 96, "kind": "turned", "merged": 4, "source_columns": 24} */
#define SYMBOL merge_rows_4febd84d
#define COLUMNS 96
#define KIND_TURNED 1
#define MERGED 4
#define SOURCE_COLUMNS 24
#include "merge_rows.h"
