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
