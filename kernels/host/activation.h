/* An activation: ACTIVATION_<NAME>, by its name in compiler/ops/activations.py, or ACTIVATION_NONE. */
#ifndef ROCMFORGE_ACTIVATION_H
#define ROCMFORGE_ACTIVATION_H
#include "vector.h"

#if defined(ACTIVATION_NONE)
INLINE f32x16 activation(f32x16 x) { return x; }
#elif defined(ACTIVATION_SILU)
INLINE f32x16 activation(f32x16 x) { return x / (1.0f + vector_exp(-x)); }
#elif defined(ACTIVATION_SIGMOID)
INLINE f32x16 activation(f32x16 x) { return vector_select(x == x, 1.0f / (1.0f + vector_exp(-x)), x); } /* keeps NaN */
#elif defined(ACTIVATION_TANH)
INLINE f32x16 activation(f32x16 x) { return vector_tanh(x); }
#elif defined(ACTIVATION_RELU)
INLINE f32x16 activation(f32x16 x) { return vector_select(x < splat(0), splat(0), x); }
#elif defined(ACTIVATION_RELU2)
INLINE f32x16 activation(f32x16 x)
{
    const f32x16 positive = vector_select(x < splat(0), splat(0), x);
    return positive * positive;
}
#elif defined(ACTIVATION_GELU)
/* (1 + tanh(u)) / 2 = 1 / (1 + e^-2u), u = sqrt(2 / pi) * (x + 0.044715 x^3). */
INLINE f32x16 activation(f32x16 x)
{
    const f32x16 u = x * vector_fma(splat(0.0356774081f), x * x, splat(0.797884561f));
    return x / (1.0f + vector_exp(-2.0f * u));
}
#elif defined(ACTIVATION_GELU_QUICK)
INLINE f32x16 activation(f32x16 x) { return x / (1.0f + vector_exp(-1.702f * x)); }
#elif defined(ACTIVATION_GELU_ERF)
/* erfc(z) for z >= 0 is t * (a1 + t * (a2 + ...)) * e^-z^2, t = 1 / (1 + p z), to 1.5e-7: Abramowitz and Stegun, 7.1.26. */
INLINE f32x16 activation(f32x16 x)
{
    const f32x16 z = vector_abs(x) * 0.707106781f, t = 1.0f / vector_fma(splat(0.3275911f), z, splat(1.0f));
    f32x16 p = splat(1.061405429f);
    p = vector_fma(p, t, splat(-1.453152027f));
    p = vector_fma(p, t, splat(1.421413741f));
    p = vector_fma(p, t, splat(-0.284496736f));
    p = vector_fma(p, t, splat(0.254829592f));
    const f32x16 outside = 0.5f * (p * t) * vector_exp(-(z * z)); /* share of the distribution beyond |x| */
    return x * vector_select(x < splat(0), outside, 1.0f - outside);
}
#elif defined(ACTIVATION_SOFTPLUS)
INLINE f32x16 activation(f32x16 x) { return vector_softplus(x); }
#elif defined(ACTIVATION_CLAMP)
/* Constants: LOW, HIGH. */
INLINE f32x16 activation(f32x16 x)
{
    return vector_select(x < splat(LOW), splat(LOW), vector_select(x > splat(HIGH), splat(HIGH), x));
}
#elif defined(ACTIVATION_XIELU)
/* Constants: POSITIVE, NEGATIVE, BETA, EPSILON. e^x - 1 - x by its series where the difference would cancel. */
INLINE f32x16 activation(f32x16 x)
{
    const f32x16 low = -vector_max(-x, splat(-(EPSILON)));
    f32x16 p = splat(1.0f / 40320);
    p = vector_fma(p, low, splat(1.0f / 5040));
    p = vector_fma(p, low, splat(1.0f / 720));
    p = vector_fma(p, low, splat(1.0f / 120));
    p = vector_fma(p, low, splat(1.0f / 24));
    p = vector_fma(p, low, splat(1.0f / 6));
    p = vector_fma(p, low, splat(0.5f));
    const f32x16 series = vector_fma(p, low * low, low - x);
    const f32x16 below = vector_select(low > splat(-0.5f), series, vector_exp(low) - 1.0f - x);
    return vector_fma(splat(BETA), x, vector_select(x > splat(0), POSITIVE * (x * x), NEGATIVE * below));
}
#else
#error "expected ACTIVATION_<NAME> of a name above"
#endif
#endif
