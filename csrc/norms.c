/* Penalties on weights and the norm of the gradient: sums over many weights, in double, one per chunk
 * and then added up in order, so that they do not depend on the threads; and their use. */
#include "kernel.h"

#define GRAIN 256 /* floats; a share starts on a cache line */

enum { HALF = VL / 2 };
typedef float vh __attribute__((vector_size(4 * HALF)));
typedef int32_t vhi __attribute__((vector_size(4 * HALF)));
typedef double vd __attribute__((vector_size(8 * HALF)));

/* sums[i] = sum(l1 * abs(x) + l2 * x**2) over chunk i of x */
KERNEL(chunk_sums) {
    int64_t first, last;
    fnn_range((a->n + FNN_CHUNK - 1) / FNN_CHUNK, 1, part, &first, &last);
    for (int64_t chunk = first; chunk < last; chunk++) {
        const int64_t lo = chunk * FNN_CHUNK, hi = lo + FNN_CHUNK < a->n ? lo + FNN_CHUNK : a->n;
        vd lanes_l1 = {0}, lanes_l2 = {0};
        int64_t i = lo;
        for (; i + HALF <= hi; i += HALF) {
            vh x;
            memcpy(&x, a->x + i, sizeof x);
            vd size = __builtin_convertvector((vh)((vhi)x & 0x7fffffff), vd);
            lanes_l1 += size;
            lanes_l2 += size * size;
        }
        double l1 = 0, l2 = 0;
        for (int lane = 0; lane < HALF; lane++) {
            l1 += lanes_l1[lane];
            l2 += lanes_l2[lane];
        }
        for (; i < hi; i++) {
            double size = __builtin_fabs((double)a->x[i]);
            l1 += size;
            l2 += size * size;
        }
        a->sums[chunk] = (double)a->l1 * l1 + (double)a->l2 * l2;
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
    if (part.tid == 0) a->loss[0] = (float)((double)a->loss[0] + total(a->sums, a->n));
    return FNN_OK;
}

/* sum(l1 * abs(w) + l2 * w**2): dw += l1 * sign(w) + 2 * l2 * w */
KERNEL(penalty_gradient) {
    const fnn_penalty_gradient_args s = *a;
    const vf l1 = v_set1(s.l1), rate = v_set1(2 * s.l2), zero = {0};
#define PENALTY(i, n)                                                                              \
    do {                                                                                           \
        vf w = load(s.w + i, n);                                                                   \
        vf sign = v_select(w > zero, l1, v_select(w < zero, -l1, zero));                           \
        store(s.dw + i, v_fma(rate, w, load(s.dw + i, n) + sign), n);                              \
    } while (0)
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
