/* The activation of a feed-forward's gate: ACTIVATION_<NAME>, by its name in compiler/ops/gate.py. */
#ifndef ROCMFORGE_ACTIVATION_H
#define ROCMFORGE_ACTIVATION_H
#include "vector.h"

#if defined(ACTIVATION_SILU)
INLINE f32x16 activation(f32x16 x) { return x / (1.0f + vector_exp(-x)); }
#else
#error "expected ACTIVATION_<NAME> of a name above"
#endif
#endif
