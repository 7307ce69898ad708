/* What a kernel file includes: the vector type, the argument structs and how to define an op. */
#ifndef FASTNN_KERNEL_H
#define FASTNN_KERNEL_H

#include "fastnn.h"
#include "simd.h"

/* KERNEL(name) { body } defines the op `name` of this instruction set; the body sees
 * `const fnn_NAME_args *a` and `fnn_part part`. */
#define KERNEL(name)                                                                               \
    static int name(const fnn_##name##_args *a, fnn_part part);                                    \
    int FN(name)(const void *args, fnn_part part);                                                 \
    int FN(name)(const void *args, fnn_part part) { return name(args, part); }                     \
    static int name(const fnn_##name##_args *a __attribute__((unused)),                            \
                    fnn_part part __attribute__((unused)))

/* The clock is data: a plan that is replayed past the end of its epoch must not read there. */
INLINE bool past_end(int64_t first, int64_t n, int64_t limit) { return first < 0 || first > limit - n; }

/* the first n lanes; n is VL as a constant in the main loops, so the choice costs nothing there */
INLINE vf load_part(const float *p, int n) { return n == VL ? v_load(p) : v_load_n(p, n); }
INLINE void store_part(float *p, vf x, int n) {
    if (n == VL) v_store(p, x);
    else v_store_n(p, x, n);
}

/* Runs body(i, n) on vectors of n lanes from element i on, over this thread's share. */
#define FOR_VECTORS(total, grain, body)                                                            \
    do {                                                                                           \
        int64_t i_, hi_;                                                                           \
        fnn_range(total, grain, part, &i_, &hi_);                                                  \
        for (; i_ + VL <= hi_; i_ += VL) body(i_, VL);                                             \
        if (i_ < hi_) body(i_, (int)(hi_ - i_));                                                   \
    } while (0)

/* this step's learning rate: the table's, its last entry from there on */
INLINE float rate_now(const float *lr, int64_t lr_len, const int64_t *clock) {
    return lr[clock[FNN_BATCH] < lr_len ? clock[FNN_BATCH] : lr_len - 1];
}

/* the derivative of l1 * abs(w) + l2 * w**2 */
INLINE vf penalty_slope(vf w, float l1, float l2) {
    if (l1 == 0) return v_set1(2 * l2) * w;
    /* l1 with the sign of w, 0 where w is */
    const vi sign = ((vi)v_set1(l1) | ((vi)w & vi_set1(INT32_MIN))) & (w != v_set1(0.0f));
    return v_fma(v_set1(2 * l2), w, (vf)sign);
}

/* an op that another one begins with (step.c) */
int FN(gather_rows)(const void *args, fnn_part part);
/* fused into products: the same elementwise code on a block of them (elementwise.c) */
void FN(activate)(fnn_activation f, float slope, const float *x, float *y, int64_t n);
/* dx = dx * f'(saved) */
void FN(activate_backward)(fnn_activation f, float slope, const float *saved, float *dx, int64_t n);

#endif
