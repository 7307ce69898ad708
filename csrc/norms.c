/* Penalties on weights and the norm of the gradient: sums over many weights, in double, one per chunk
 * and then added up in order, so that they do not depend on the threads; and their use. */
#include "kernel.h"

#define GRAIN 256 /* floats; a share starts on a cache line */

enum { HALF = VL / 2, CHAINS = 4 }; /* as many sums at once hide the additions' latency */
typedef float vh __attribute__((vector_size(4 * HALF)));
typedef int32_t vhi __attribute__((vector_size(4 * HALF)));
typedef double vd __attribute__((vector_size(8 * HALF)));

INLINE vd vd_fma(vd a, vd b, vd c) {
#ifdef AVX512
    return _mm512_fmadd_pd(a, b, c);
#elif VL == 8
    return _mm256_fmadd_pd(a, b, c);
#else
    return a * b + c;
#endif
}

/* sum(x**2), or sum(abs(x)), of n values */
INLINE double sum_of(const bool squares, const float *x, int64_t n) {
    vd lanes[CHAINS] = {{0}};
    int64_t i = 0;
    for (; i + CHAINS * HALF <= n; i += CHAINS * HALF)
        for (int chain = 0; chain < CHAINS; chain++) {
            vh part;
            memcpy(&part, x + i + chain * HALF, sizeof part);
            if (!squares) part = (vh)((vhi)part & 0x7fffffff);
            const vd wide = __builtin_convertvector(part, vd);
            lanes[chain] = squares ? vd_fma(wide, wide, lanes[chain]) : lanes[chain] + wide;
        }
    double sum = 0;
    for (int chain = 0; chain < CHAINS; chain++)
        for (int lane = 0; lane < HALF; lane++) sum += lanes[chain][lane];
    for (; i < n; i++) sum += squares ? (double)x[i] * (double)x[i] : __builtin_fabs((double)x[i]);
    return sum;
}

/* sums[i] = sum(l1 * abs(x) + l2 * x**2) over chunk i of x */
KERNEL(chunk_sums) {
    int64_t first, last;
    fnn_range((a->n + FNN_CHUNK - 1) / FNN_CHUNK, 1, part, &first, &last);
    for (int64_t chunk = first; chunk < last; chunk++) {
        const float *x = a->x + chunk * FNN_CHUNK;
        const int64_t left = a->n - chunk * FNN_CHUNK, n = left < FNN_CHUNK ? left : FNN_CHUNK;
        const double l1 = a->l1 != 0 ? (double)a->l1 * sum_of(false, x, n) : 0;
        const double l2 = a->l2 != 0 ? (double)a->l2 * sum_of(true, x, n) : 0;
        a->sums[chunk] = l1 + l2;
    }
    return FNN_OK;
}

INLINE double total(const double *sums, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += sums[i];
    return sum;
}

/* loss += sum(sums); share 0 does it */
KERNEL(add_chunk_sums) {
    if (part.share == 0) a->loss[0] = (float)((double)a->loss[0] + total(a->sums, a->n));
    return FNN_OK;
}

/* sum(l1 * abs(w) + l2 * w**2): dw += l1 * sign(w) + 2 * l2 * w */
KERNEL(penalty_gradient) {
    const fnn_penalty_gradient_args s = *a;
#define PENALTY(i, n) store(s.dw + i, load(s.dw + i, n) + penalty_slope(load(s.w + i, n), s.l1, s.l2), n)
    FOR_VECTORS(s.n, GRAIN, PENALTY);
    return FNN_OK;
}

/* grad *= min(1, clip_norm / sqrt(sum(squares))) */
KERNEL(clip_gradient) {
    const fnn_clip_gradient_args s = *a;
    const double norm = __builtin_sqrt(total(s.squares, s.chunks));
    if (!(norm > s.clip_norm)) return FNN_OK;
    const vf scale = v_set1((float)(s.clip_norm / norm));
#define CLIP(i, n) store(s.grad + i, scale * load(s.grad + i, n), n)
    FOR_VECTORS(s.n, GRAIN, CLIP);
    return FNN_OK;
}
