/* scan_987d865b: kernels/host/scan.h, {"columns": 24, "epsilon": "1.0e-05f", "gate_heads": 2, "gates_first": 1, "gates_stride": 9, "heads": 4, "key_heads": 2, "kind": "delta", "modulo": true, "qkv_first": 3, "qkv_stride": 170, "state": 16, "state_bytes": 8192} */
#define SYMBOL scan_987d865b
#define COLUMNS 24
#define EPSILON 1.0e-05f
#define GATE_HEADS 2
#define GATES_FIRST 1
#define GATES_STRIDE 9
#define HEADS 4
#define KEY_HEADS 2
#define KIND_DELTA 1
#define MODULO 1
#define QKV_FIRST 3
#define QKV_STRIDE 170
#define STATE 16
#define STATE_BYTES 8192
#include "scan.h"
