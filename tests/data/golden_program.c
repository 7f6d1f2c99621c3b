/* The program: kernels/host/program.h */
#include "program.h"
