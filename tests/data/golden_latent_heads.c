/* latent_heads_e73a4b04: kernels/host/latent_heads.h, {"absorbed": true, "num_heads": 3, "rank": 16, "tail_dim": 6} */
#define SYMBOL latent_heads_e73a4b04
#define ABSORBED 1
#define NUM_HEADS 3
#define RANK 16
#define TAIL_DIM 6
#include "latent_heads.h"
