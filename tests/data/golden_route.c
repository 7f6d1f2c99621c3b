/* route_9a5c15f9: kernels/host/route.h, {"experts": 9, "groups": 3, "groups_used": 2, "has_bias": true, "normalise": true, "scale": "1.5f", "scoring": "sigmoid", "used": 3} */
#define SYMBOL route_9a5c15f9
#define EXPERTS 9
#define GROUPS 3
#define GROUPS_USED 2
#define HAS_BIAS 1
#define NORMALISE 1
#define SCALE 1.5f
#define SCORING_SIGMOID 1
#define USED 3
#include "route.h"
