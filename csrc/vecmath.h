/* Elementary functions on vectors: exp, log, sigmoid, tanh, erf, the slope of GELU, a row's maximum.
 *
 * Every polynomial and quotient is a minimax fit (Lawson's reweighted least squares; coefficients
 * rounded to float one by one, the rest fitted again).  tests/test_vecmath.py holds each function
 * to the error in its comment on dense sweeps; ulp counts of the correctly rounded result. */
#ifndef FASTNN_VECMATH_H
#define FASTNN_VECMATH_H

#include "simd.h"

/* magnitude >= 0 with the sign of x */
INLINE vf v_with_sign(vf magnitude, vf x) {
    return (vf)((vi)magnitude | ((vi)x & vi_set1(INT32_MIN)));
}

#define V_NEXT(c) p = v_fma(p, x, v_set1(c)) /* one step of Horner's rule */

/* exp, ulp <= 1.2; results below 1.7e-38 are 0 */
INLINE vf v_exp(vf t) {
    /* t = n ln 2 + x, so exp(t) = 2 exp(x) * 2**(n - 1), the factor 2 standing in the coefficients:
     * at the clamps the power's exponent field is 0 or 255, which makes it 0 or inf by itself. */
    t = v_max(v_set1(-87.5f), v_min(v_set1(89.2f), t));
    const vf magic = v_set1(0x1.8p23f + 126); /* leaves n + 126 in the low bits */
    vf shifted = v_fma(t, v_set1(0x1.715476p0f), magic);
    vf n = shifted - magic;
    vf x = v_fma(n, v_set1(-0x1.62e4p-1f), t);
    x = v_fma(n, v_set1(-0x1.7f7d1cp-20f), x);
    vf p = v_set1(0x1.6a4d6p-9f);
    V_NEXT(0x1.12398ep-6f);
    V_NEXT(0x1.5558bp-4f);
    V_NEXT(0x1.555492p-2f);
    V_NEXT(0x1.fffffcp-1f);
    V_NEXT(2.0f);
    V_NEXT(2.0f);
    return p * (vf)((vu)shifted << 23);
}

/* log, ulp <= 1; of a negative number NaN, of 0 -inf */
INLINE vf v_log(vf t) {
    vi small = t < v_set1(0x1p-126f);
    vf scaled = v_select(small, t * v_set1(0x1p23f), t);
    /* t = 2**n * (1 + x) with 1 + x in [sqrt(1/2), sqrt(2)) */
    vi bits = (vi)((vu)scaled - vu_set1(0x3f3504f3));
    vf n = v_from_int((bits >> 23) - (small & vi_set1(23)));
    vf x = (vf)((bits & vi_set1(0x7fffff)) + vi_set1(0x3f3504f3)) - v_set1(1.0f);
    vf p = v_set1(0x1.147246p-4f);
    V_NEXT(-0x1.de0114p-4f);
    V_NEXT(0x1.e6bfecp-4f);
    V_NEXT(-0x1.fc28dap-4f);
    V_NEXT(0x1.233ba4p-3f);
    V_NEXT(-0x1.555c44p-3f);
    V_NEXT(0x1.99a476p-3f);
    V_NEXT(-0x1.000006p-2f);
    V_NEXT(0x1.555548p-2f);
    vf square = x * x;
    vf rest = v_fma(n, v_set1(0x1.7f7d1cp-20f), p * x * square);
    rest = v_fma(square, v_set1(-0.5f), rest) + x;
    vf log = v_fma(n, v_set1(0x1.62e4p-1f), rest);
    const vf inf = v_set1(__builtin_inff());
    log = v_select(t < inf, log, t); /* inf and NaN stay */
    log = v_select(t < v_set1(0.0f), v_set1(__builtin_nanf("")), log);
    return v_select(t == v_set1(0.0f), -inf, log);
}

/* 1 / (1 + exp(-t)), ulp <= 2.5; results below 2.9e-39 are 0 */
INLINE vf v_sigmoid(vf t) { return v_set1(1.0f) / (v_set1(1.0f) + v_exp(-t)); }

/* tanh, ulp <= 2.5; |tanh| <= 1 */
INLINE vf v_tanh(vf t) {
    /* -e / (e + 2) with e = exp(-2 |t|) - 1 = 2**n (exp(x) - 1) + (2**n - 1), which keeps its digits
     * where t is small; below -18 e is -1 to the last bit */
    vf twice = v_max(v_set1(-18.5f), v_set1(-2.0f) * v_abs(t));
    const vf magic = v_set1(0x1.8p23f + 127); /* leaves n + 127 in the low bits */
    vf shifted = v_fma(twice, v_set1(0x1.715476p0f), magic);
    vf n = shifted - magic;
    vf x = v_fma(n, v_set1(-0x1.62e4p-1f), twice);
    x = v_fma(n, v_set1(-0x1.7f7d1cp-20f), x);
    vf p = v_set1(0x1.6b9caap-10f);
    V_NEXT(0x1.12256p-7f);
    V_NEXT(0x1.5556f2p-5f);
    V_NEXT(0x1.5554b4p-3f);
    V_NEXT(0x1.fffffep-2f);
    vf power = (vf)((vu)shifted << 23);
    vf e = v_fma(power, v_fma(x * x, p, x), power - v_set1(1.0f));
    return v_with_sign(v_abs(e / (e + v_set1(2.0f))), t);
}

/* erf, ulp <= 6.5, absolute error <= 4e-7; |erf| <= 1 */
INLINE vf v_erf(vf t) {
    /* |t| P(x) / Q(x) with x = t**2; above 3.92 it is 1 */
    vf size = v_abs(t), x = t * t;
    vf p = v_set1(0x1.0a4ef4p-19f);
    V_NEXT(0x1.31cd98p-12f);
    V_NEXT(0x1.0ca22ep-8f);
    V_NEXT(0x1.b8b89ap-5f);
    V_NEXT(0x1.961746p-3f);
    V_NEXT(0x1.20dd74p+0f);
    vf top = p * size;
    p = v_set1(0x1.3cb052p-15f);
    V_NEXT(0x1.4570d2p-10f);
    V_NEXT(0x1.0058f4p-6f);
    V_NEXT(0x1.e0c146p-4f);
    V_NEXT(0x1.04a356p-1f);
    V_NEXT(1.0f);
    const vf one = v_set1(1.0f);
    return v_with_sign(v_select(size > v_set1(3.92f), one, v_min(one, top / p)), t);
}

/* d(t P(t))/dt - 1/2 for the normal distribution P: the slope of GELU, absolute error <= 2.5e-7 */
INLINE vf v_gelu_slope(vf t) {
    /* odd, so t P(x) / Q(x) with x = t**2; above 6 it is 1/2 */
    vf x = t * t;
    vf p = v_set1(-0x1.0ef24ep-36f);
    V_NEXT(0x1.7ffb8p-29f);
    V_NEXT(-0x1.b60a5ap-24f);
    V_NEXT(0x1.14bb86p-15f);
    V_NEXT(-0x1.379d26p-13f);
    V_NEXT(0x1.dc1f86p-7f);
    V_NEXT(-0x1.5459fap-5f);
    V_NEXT(0x1.98845ap-1f);
    vf top = p * t;
    p = v_set1(0x1.73d7c8p-18f);
    V_NEXT(0x1.3ac3ecp-13f);
    V_NEXT(0x1.82b4ap-9f);
    V_NEXT(0x1.2ec654p-5f);
    V_NEXT(0x1.2003c8p-2f);
    V_NEXT(1.0f);
    vi far = v_abs(t) > v_set1(6.0f);
    return v_select(far, v_with_sign(v_set1(0.5f), t), top / p);
}

#undef V_NEXT

/* the largest of n > 0 values */
INLINE float v_row_max(const float *x, int64_t n) {
    const vf low = v_set1(-__builtin_inff());
    vf max = low;
    int64_t i = 0;
    for (; i + VL <= n; i += VL) max = v_max(v_load(x + i), max);
    if (i < n) {
        int rest = (int)(n - i);
        max = v_max(v_select(vi_first(rest), v_load_n(x + i, rest), low), max);
    }
    return v_hmax(max);
}

#endif
