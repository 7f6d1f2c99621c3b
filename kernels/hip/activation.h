/* An activation: ACTIVATION_<NAME>, by its name in compiler/ops/activations.py, or ACTIVATION_NONE; formulas as in
 * kernels/host/activation.h. */
#ifndef ROCMFORGE_ACTIVATION_H
#define ROCMFORGE_ACTIVATION_H
#include "prelude.h"

#if defined(ACTIVATION_NONE)
INLINE float activation(float x) { return x; }
#elif defined(ACTIVATION_SILU)
INLINE float activation(float x) { return x / (1.0f + float_exp(-x)); }
#elif defined(ACTIVATION_SIGMOID)
INLINE float activation(float x) { return x == x ? 1.0f / (1.0f + float_exp(-x)) : x; }
#elif defined(ACTIVATION_TANH)
INLINE float activation(float x) { return float_tanh(x); }
#elif defined(ACTIVATION_RELU)
INLINE float activation(float x) { return x < 0 ? 0.0f : x; }
#elif defined(ACTIVATION_RELU2)
INLINE float activation(float x) { return x < 0 ? 0.0f : x * x; }
#elif defined(ACTIVATION_GELU)
INLINE float activation(float x)
{
    const float u = x * float_fma(0.0356774081f, x * x, 0.797884561f);
    return x / (1.0f + float_exp(-2.0f * u));
}
#elif defined(ACTIVATION_GELU_QUICK)
INLINE float activation(float x) { return x / (1.0f + float_exp(-1.702f * x)); }
#elif defined(ACTIVATION_GELU_ERF)
INLINE float activation(float x)
{
    const float z = float_abs(x) * 0.707106781f, t = 1.0f / float_fma(0.3275911f, z, 1.0f);
    float p = 1.061405429f;
    p = float_fma(p, t, -1.453152027f);
    p = float_fma(p, t, 1.421413741f);
    p = float_fma(p, t, -0.284496736f);
    p = float_fma(p, t, 0.254829592f);
    const float outside = 0.5f * (p * t) * float_exp(-(z * z));
    return x * (x < 0 ? outside : 1.0f - outside);
}
#elif defined(ACTIVATION_SOFTPLUS)
INLINE float activation(float x) { return float_softplus(x); }
#elif defined(ACTIVATION_CLAMP)
INLINE float activation(float x) { return x<(LOW) ? (LOW) : x>(HIGH) ? (HIGH) : x; }
#elif defined(ACTIVATION_XIELU)
INLINE float activation(float x)
{
    const float low = x < (EPSILON) ? x : (EPSILON);
    float p = 1.0f / 40320;
    p = float_fma(p, low, 1.0f / 5040);
    p = float_fma(p, low, 1.0f / 720);
    p = float_fma(p, low, 1.0f / 120);
    p = float_fma(p, low, 1.0f / 24);
    p = float_fma(p, low, 1.0f / 6);
    p = float_fma(p, low, 0.5f);
    const float series = float_fma(p, low * low, low - x);
    const float below = low > -0.5f ? series : float_exp(low) - 1.0f - x;
    return float_fma(BETA, x, x > 0 ? POSITIVE * (x * x) : NEGATIVE * below);
}
#else
#error "expected ACTIVATION_<NAME> of a name above"
#endif
#endif
