/* The functions of csrc/vecmath.h on arrays, for tests/test_vecmath.py; n is a multiple of VL. */
#include "vecmath.h"

#define PROBE(name)                                                                                \
    void probe_##name(const float *x, float *out, int64_t n);                                      \
    void probe_##name(const float *x, float *out, int64_t n) {                                     \
        for (int64_t i = 0; i < n; i += VL) v_store(out + i, v_##name(v_load(x + i)));             \
    }

PROBE(exp)
PROBE(log)
PROBE(sigmoid)
PROBE(tanh)
PROBE(erf)
PROBE(gelu_slope)
