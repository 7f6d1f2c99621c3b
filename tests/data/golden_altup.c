/* altup_ac071859: kernels/host/altup.h, {"kind": "correct", "stream_columns": 24, "streams": 4} */
#define SYMBOL altup_ac071859
#define KIND_CORRECT 1
#define STREAM_COLUMNS 24
#define STREAMS 4
#include "altup.h"
