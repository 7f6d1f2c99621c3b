/* The packing of a matrix, by the macros of its format's row in artifacts/formats.py. */
#ifdef QUANT_BITS
#include "weights_quantized.h"
#else
#include "weights_float.h"
#endif
