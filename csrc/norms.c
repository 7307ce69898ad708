/* Penalties on weights and the norm of the gradient: sums over many weights, one per chunk
 * and then, in double, added up in order, so that they do not depend on the threads; and their use. */
#include "kernel.h"

#include <float.h>

#define GRAIN 256 /* floats; a share starts on a cache line */

enum { CHAINS = 4 }; /* as many sums at once hide the additions' latency */

typedef double vd __attribute__((vector_size(8 * VL)));

/* sum(x**2), or sum(abs(x)), of one chunk: so few terms a lane that its sum may be a float */
INLINE double sum_of(const bool squares, const float *x, int64_t n) {
    vf lanes[CHAINS] = {{0}};
#define ADD(chain, i, n)                                                                           \
    do {                                                                                           \
        const vf part = load_part(x + i, n);                                                       \
        lanes[chain] = squares ? v_fma(part, part, lanes[chain]) : lanes[chain] + v_abs(part);     \
    } while (0)
    int64_t i = 0;
    for (; i + CHAINS * VL <= n; i += CHAINS * VL)
        for (int chain = 0; chain < CHAINS; chain++) ADD(chain, i + chain * VL, VL);
    for (; i + VL <= n; i += VL) ADD(0, i, VL);
    if (i < n) ADD(0, i, (int)(n - i));
    vd total = __builtin_convertvector(lanes[0], vd);
    for (int chain = 1; chain < CHAINS; chain++) total += __builtin_convertvector(lanes[chain], vd);
    double sum = 0;
    for (int lane = 0; lane < VL; lane++) sum += total[lane];
    if (sum <= (double)FLT_MAX) return sum;
    sum = 0; /* too large for a float, if no NaN */
    for (i = 0; i < n; i++) sum += squares ? (double)x[i] * (double)x[i] : __builtin_fabs((double)x[i]);
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
#define PENALTY(i, n) store_part(s.dw + i, load_part(s.dw + i, n) + penalty_slope(load_part(s.w + i, n), s.l1, s.l2), n)
    FOR_VECTORS(s.n, GRAIN, PENALTY);
    return FNN_OK;
}

/* grad *= min(1, clip_norm / sqrt(sum(squares))) */
KERNEL(clip_gradient) {
    const fnn_clip_gradient_args s = *a;
    const double norm = __builtin_sqrt(total(s.squares, s.chunks));
    if (!(norm > s.clip_norm)) return FNN_OK;
    const vf scale = v_set1((float)(s.clip_norm / norm));
#define CLIP(i, n) store_part(s.grad + i, scale * load_part(s.grad + i, n), n)
    FOR_VECTORS(s.n, GRAIN, CLIP);
    return FNN_OK;
}
