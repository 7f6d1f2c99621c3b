/* The activation of a feed-forward's gate: ACTIVATION_<NAME>, by its name in compiler/ops/gate.py. */
#ifndef ROCMFORGE_ACTIVATION_H
#define ROCMFORGE_ACTIVATION_H
#include "prelude.h"

#if defined(ACTIVATION_SILU)
INLINE float activation(float x) { return x / (1.0f + float_exp(-x)); }
#else
#error "expected ACTIVATION_<NAME> of a name above"
#endif
#endif
