/* sample_1d0363c7: kernels/host/sample.h, {"vocab_size": 50} */
#define SYMBOL sample_1d0363c7
#define VOCAB_SIZE 50
#include "sample.h"
