/* input_rows_87f12af5: kernels/host/input_rows.h, {"adds": false, "columns": 24, "first": 7, "keeps": true, "width": 40} */
#define SYMBOL input_rows_87f12af5
#define ADDS 0
#define COLUMNS 24
#define FIRST 7
#define KEEPS 1
#define WIDTH 40
#include "input_rows.h"
