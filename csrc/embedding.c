/* Embeddings: rows of a table by the numbers of tokens, and the sums of the gradients of each.
 *
 * A thread owns every n-th token, because the frequent ones often come first: it alone writes their rows. */
#include <string.h>

#include "kernel.h"

/* out (R, U): out[r] = w[x[r]] */
KERNEL(embedding_forward) {
    int64_t lo, hi;
    fnn_range(a->r, 1, part, &lo, &hi);
    for (int64_t r = lo; r < hi; r++)
        memcpy(a->out + r * a->u, a->w + a->x[r] * a->u, (size_t)a->u * sizeof(float));
    return FNN_OK;
}

/* forward: out[r] = w[x[r]];  dw (V, U) = 0, dw[x[r]] += dout[r];  clean (V,): 1 where dw is 0 already, then where it is now */
KERNEL(embedding_backward) {
    for (int64_t v = part.share; v < a->v; v += part.n) {
        if (a->clean && a->clean[v]) continue;
        memset(a->dw + v * a->u, 0, (size_t)a->u * sizeof(float));
        if (a->clean) a->clean[v] = 1;
    }
    for (int64_t r = 0; r < a->r; r++) {
        const int64_t v = a->x[r];
        if (v % part.n != part.share) continue;
        const float *from = a->dout + r * a->u;
        float *to = a->dw + v * a->u;
        for (int64_t j = 0; j < a->u; j += VL) {
            const int n = (int)(a->u - j < VL ? a->u - j : VL);
            store_part(to + j, load_part(to + j, n) + load_part(from + j, n), n);
        }
        if (a->clean) a->clean[v] = 0;
    }
    return FNN_OK;
}
