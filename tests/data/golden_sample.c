/* sample_1d0363c7: template host/sample.c.j2, {"vocab_size": 50} */
#define SYMBOL sample_1d0363c7
#define VOCAB_SIZE 50
#include "sample.h"
