/* The packing of a matrix, by the macros of its format's row in artifacts/formats.py. */
#ifdef QUANT_BITS
#include "weights_quantized.h"
#else
#include "weights_float.h"
#endif

/* Whether the processor is faster with two tiles at once, where they are multiplied so. */
#ifndef PAIRS_PAY
#define PAIRS_PAY 1
#endif
