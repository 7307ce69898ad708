/* Losses: the mean over the batch, its gradient and the number of hits in one pass over the rows.
 * Share 0 does it alone, so a sum's order never depends on the threads; sums run in double. */
#include "kernel.h"
#include "vecmath.h"

/* Is x[k] the first of the row's largest values? */
static bool is_argmax(const float *x, int64_t k, float max) {
    if (x[k] != max) return false;
    for (int64_t j = 0; j < k; j++)
        if (x[j] == max) return false;
    return true;
}

/* e = exp(x - max) into dx (unless NULL), but for the last partial vector, which stays in *last;
 * returns sum(e) */
INLINE float exp_row(const float *x, int64_t c, float max, float *dx, vf *last) {
    vf sum = {0};
    int64_t j = 0;
    for (; j + VL <= c; j += VL) {
        vf e = v_exp(v_load(x + j) - v_set1(max));
        if (dx) v_store(dx + j, e);
        sum += e;
    }
    if (j < c) {
        int rest = (int)(c - j);
        *last = (vf)((vi)v_exp(v_load_n(x + j, rest) - v_set1(max)) & vi_first(rest));
        sum += *last;
    }
    return v_hsum(sum);
}

/* What a row adds to the loss: log(sum) * weight + rest.  VL rows wait for one vector logarithm. */
typedef struct {
    float sum[VL], weight[VL], rest[VL];
    int n;
    double total;
} row_losses;

INLINE void flush_rows(row_losses *l) {
    float logs[VL];
    v_store(logs, v_log(v_load(l->sum)));
    for (int i = 0; i < l->n; i++)
        l->total += (double)logs[i] * (double)l->weight[i] + (double)l->rest[i];
    l->n = 0;
}

INLINE void add_row(row_losses *l, float sum, float weight, float rest) {
    l->sum[l->n] = sum;
    l->weight[l->n] = weight;
    l->rest[l->n] = rest;
    if (++l->n == VL) flush_rows(l);
}

/* loss = -mean(log(softmax(x))[i, labels[i]]); dx = (softmax(x) - onehot(labels)) / N */
KERNEL(softmax_cross_entropy) {
    if (part.tid > 0) return FNN_OK;
    const int64_t n = a->n, c = a->c;
    row_losses losses = {0};
    int64_t correct = 0;
    for (int64_t i = 0; i < n; i++) {
        const float *x = a->x + i * c;
        float *dx = a->dx ? a->dx + i * c : NULL;
        const int32_t label = a->labels[i];
        const float max = v_row_max(x, c);
        vf last = {0};
        const float sum = exp_row(x, c, max, dx, &last);
        add_row(&losses, sum, 1.0f, max - x[label]);
        correct += is_argmax(x, label, max);
        if (dx) {
            const vf scale = v_set1(1.0f / (sum * (float)n));
            int64_t j = 0;
            for (; j + VL <= c; j += VL) v_store(dx + j, v_load(dx + j) * scale);
            if (j < c) v_store_n(dx + j, last * scale, (int)(c - j));
            dx[label] -= 1.0f / (float)n;
        }
    }
    flush_rows(&losses);
    a->loss[0] = (float)(losses.total / (double)n);
    a->correct[0] = correct;
    return FNN_OK;
}

/* loss = -mean(sum(target * log(softmax(x)), axis=1));
 * dx = (softmax(x) * sum(target, axis=1) - target) / N */
KERNEL(softmax_cross_entropy_soft) {
    if (part.tid > 0) return FNN_OK;
    const int64_t n = a->n, c = a->c;
    row_losses losses = {0};
    int64_t correct = 0;
    for (int64_t i = 0; i < n; i++) {
        const float *x = a->x + i * c, *target = a->target + i * c;
        float *dx = a->dx ? a->dx + i * c : NULL;
        const float max = v_row_max(x, c);
        vf last = {0};
        const float sum = exp_row(x, c, max, dx, &last);
        /* -sum(target * (x - max - log(sum))) */
        vf weight = {0}, dot = {0}, last_target = {0};
        int64_t j = 0;
        for (; j + VL <= c; j += VL) {
            vf t = v_load(target + j);
            weight += t;
            dot = v_fma(t, v_set1(max) - v_load(x + j), dot);
        }
        if (j < c) {
            int rest = (int)(c - j);
            last_target = v_load_n(target + j, rest);
            weight += last_target;
            dot = v_fma(last_target, v_set1(max) - v_load_n(x + j, rest), dot);
        }
        const float mass = v_hsum(weight);
        add_row(&losses, sum, mass, v_hsum(dot));
        const float top = v_row_max(target, c);
        int64_t k = 0;
        while (k < c - 1 && target[k] != top) k++;
        correct += is_argmax(x, k, max);
        if (dx) {
            const vf scale = v_set1(mass / (sum * (float)n)), share = v_set1(-1.0f / (float)n);
            for (j = 0; j + VL <= c; j += VL)
                v_store(dx + j, v_fma(share, v_load(target + j), v_load(dx + j) * scale));
            if (j < c) v_store_n(dx + j, v_fma(share, last_target, last * scale), (int)(c - j));
        }
    }
    flush_rows(&losses);
    a->loss[0] = (float)(losses.total / (double)n);
    a->correct[0] = correct;
    return FNN_OK;
}

/* loss = mean((x - target)**2); dx = 2 (x - target) / n */
KERNEL(mean_squared_error) {
    if (part.tid > 0) return FNN_OK;
    enum { CHUNK = 1024 }; /* floats that are summed in single precision */
    const int64_t n = a->n;
    const vf scale = v_set1((float)(2.0 / (double)n));
    double total = 0;
    for (int64_t lo = 0; lo < n; lo += CHUNK) {
        const int64_t hi = lo + CHUNK < n ? lo + CHUNK : n;
        vf sum = {0};
        int64_t i = lo;
        for (; i + VL <= hi; i += VL) {
            vf difference = v_load(a->x + i) - v_load(a->target + i);
            sum = v_fma(difference, difference, sum);
            if (a->dx) v_store(a->dx + i, difference * scale);
        }
        if (i < hi) {
            int rest = (int)(hi - i);
            vf difference = v_load_n(a->x + i, rest) - v_load_n(a->target + i, rest);
            sum = v_fma(difference, difference, sum);
            if (a->dx) v_store_n(a->dx + i, difference * scale, rest);
        }
        total += (double)v_hsum(sum);
    }
    a->loss[0] = (float)(total / (double)n);
    return FNN_OK;
}
