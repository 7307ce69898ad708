/* Pooling of a few images at a time: what a convolution does with its output while that is in cache. */
#ifndef FASTNN_POOL_H
#define FASTNN_POOL_H

#include "kernel.h"

/* What the two kinds of pooling share: index is the maximum's, scale and by_count are the mean's. */
typedef struct {
    fnn_pool2d shape;
    const float *x;
    float *out;
    bool wide;
    void *index;
    const float *mask; /* of the maximum's gradient: only where this is above 0 */
    float scale;
    bool by_count;
} pooling;

/* Rows [lo, hi) of the N * OH rows of windows. */
void FN(maxpool_rows)(const pooling *p, int64_t lo, int64_t hi);

#endif
