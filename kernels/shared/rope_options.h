/* Constants of rope_kv.h that a model need not have. */
#ifndef ROPE_FIRST
#define ROPE_FIRST 0
#endif
#ifndef CLAMP
#define CLAMP 0.0f
#endif
#ifndef NORM_LAYER
#define NORM_LAYER 0
#endif
#ifndef NORM_ROWS
#define NORM_ROWS 0
#endif
#ifndef NORM_AFTER
#define NORM_AFTER 0
#endif
#ifndef PER_HEAD
#define PER_HEAD 0
#endif
#ifndef WEIGHTLESS
#define WEIGHTLESS 0
#endif
#ifndef NORM_BIAS
#define NORM_BIAS 0
#endif
#ifndef VALUE_NORM
#define VALUE_NORM 0
#endif
#ifndef TEMPERATURE
#define TEMPERATURE 0
#endif
#ifdef SECTIONS
#ifndef SECTIONS_INTERLEAVED
#define SECTIONS_INTERLEAVED 0
#endif

/* Which of a token's rotary positions pair `i` rotates by, where SECTIONS are pairs of time, height, width and extra.
 * One section after another, and so on from the first again; or, where SECTIONS_INTERLEAVED, time, height and width in
 * turn, as long as each lasts, and time then. */
INLINE int32_t section_axis(int32_t i, int32_t time, int32_t height, int32_t width, int32_t extra)
{
    const int32_t within = i % (time + height + width + extra), turn = within % 3;
    if (SECTIONS_INTERLEAVED) return within < 3 * (turn == 1 ? height : width) ? turn : 0;
    return within < time ? 0 : within < time + height ? 1 : within < time + height + width ? 2 : 3;
}
#endif
