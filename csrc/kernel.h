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

/* fused into products: the same elementwise code on a block of them (elementwise.c) */
void FN(activate)(fnn_activation f, float slope, const float *x, float *y, int64_t n);
/* dx = dx * f'(saved) */
void FN(activate_backward)(fnn_activation f, float slope, const float *saved, float *dx, int64_t n);

#endif
