/* The program: template host/program.c.j2. */
#include "program.h"
