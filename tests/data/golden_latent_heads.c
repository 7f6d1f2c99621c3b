/* latent_heads_0e458000: kernels/host/latent_heads.h, {"head_dim": 22, "num_heads": 3, "tail_dim": 6, "value_dim": 12} */
#define SYMBOL latent_heads_0e458000
#define HEAD_DIM 22
#define NUM_HEADS 3
#define TAIL_DIM 6
#define VALUE_DIM 12
#include "latent_heads.h"
