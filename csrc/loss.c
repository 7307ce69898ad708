/* Losses: the mean over the batch, its gradient and the number of hits.
 * Rows may have weights: loss = sum(weights * row losses) / count(weights != 0), and a row of weight 0
 * is not looked at.  Share 0 does it alone, so a sum's order never depends on the threads; sums run in
 * double. */
#include "kernel.h"
#include "vecmath.h"

/* How many rows count: all of them where there are no weights. */
static int64_t count_rows(const float *weights, int64_t n) {
    if (!weights) return n;
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) count += weights[i] != 0;
    return count;
}

INLINE float weight_of(const float *weights, int64_t i) { return weights ? weights[i] : 1.0f; }

/* A row that does not count has no gradient. */
static void clear_row(float *dx, int64_t c) {
    if (dx) memset(dx, 0, sizeof(float) * (size_t)c);
}

/* A mean over no rows is 0. */
static float mean(double total, int64_t count) { return count ? (float)(total / (double)count) : 0.0f; }

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

/* loss = -sum(w * log(softmax(x))[i, labels[i]]) / count; dx = w (softmax(x) - onehot(labels)) / count */
KERNEL(softmax_cross_entropy) {
    if (part.share > 0) return FNN_OK;
    const int64_t n = a->n, c = a->c, count = count_rows(a->weights, n);
    row_losses losses = {0};
    int64_t correct = 0;
    for (int64_t i = 0; i < n; i++) {
        const float *x = a->x + i * c;
        float *dx = a->dx ? a->dx + i * c : NULL;
        const int32_t label = a->labels[i];
        const float weight = weight_of(a->weights, i);
        if (weight == 0) {
            clear_row(dx, c);
            continue;
        }
        const float max = v_row_max(x, c);
        vf last = {0};
        const float sum = exp_row(x, c, max, dx, &last);
        add_row(&losses, sum, weight, weight * (max - x[label]));
        correct += is_argmax(x, label, max);
        if (dx) {
            const vf scale = v_set1(weight / (sum * (float)count));
            int64_t j = 0;
            for (; j + VL <= c; j += VL) v_store(dx + j, v_load(dx + j) * scale);
            if (j < c) v_store_n(dx + j, last * scale, (int)(c - j));
            dx[label] -= weight / (float)count;
        }
    }
    flush_rows(&losses);
    a->loss[0] = mean(losses.total, count);
    a->correct[0] = correct;
    return FNN_OK;
}

/* loss = -sum(w * sum(target * log(softmax(x)), axis=1)) / count;
 * dx = w (softmax(x) * sum(target, axis=1) - target) / count */
KERNEL(softmax_cross_entropy_soft) {
    if (part.share > 0) return FNN_OK;
    const int64_t n = a->n, c = a->c, count = count_rows(a->weights, n);
    row_losses losses = {0};
    int64_t correct = 0;
    for (int64_t i = 0; i < n; i++) {
        const float *x = a->x + i * c, *target = a->target + i * c;
        float *dx = a->dx ? a->dx + i * c : NULL;
        const float weight = weight_of(a->weights, i);
        if (weight == 0) {
            clear_row(dx, c);
            continue;
        }
        const float max = v_row_max(x, c);
        vf last = {0};
        const float sum = exp_row(x, c, max, dx, &last);
        /* -sum(target * (x - max - log(sum))) */
        vf masses = {0}, dot = {0}, last_target = {0};
        int64_t j = 0;
        for (; j + VL <= c; j += VL) {
            vf t = v_load(target + j);
            masses += t;
            dot = v_fma(t, v_set1(max) - v_load(x + j), dot);
        }
        if (j < c) {
            int rest = (int)(c - j);
            last_target = v_load_n(target + j, rest);
            masses += last_target;
            dot = v_fma(last_target, v_set1(max) - v_load_n(x + j, rest), dot);
        }
        const float mass = weight * v_hsum(masses);
        add_row(&losses, sum, mass, weight * v_hsum(dot));
        const float top = v_row_max(target, c);
        int64_t k = 0;
        while (k < c - 1 && target[k] != top) k++;
        correct += is_argmax(x, k, max);
        if (dx) {
            const vf scale = v_set1(mass / (sum * (float)count)), share = v_set1(-weight / (float)count);
            for (j = 0; j + VL <= c; j += VL)
                v_store(dx + j, v_fma(share, v_load(target + j), v_load(dx + j) * scale));
            if (j < c) v_store_n(dx + j, v_fma(share, last_target, last * scale), (int)(c - j));
        }
    }
    flush_rows(&losses);
    a->loss[0] = mean(losses.total, count);
    a->correct[0] = correct;
    return FNN_OK;
}

/* ---- losses that are means over elements -------------------------------------------------------- */

/* value and, in *slope, its derivative by x, of each element */
typedef vf element_fn(vf x, vf target, float delta, vf *slope);

/* (x - target)**2 */
INLINE vf squared(vf x, vf target, float delta, vf *slope) {
    (void)delta;
    vf difference = x - target;
    *slope = difference + difference;
    return difference * difference;
}

/* abs(x - target), whose slope at 0 is taken to be 0 */
INLINE vf absolute(vf x, vf target, float delta, vf *slope) {
    (void)delta;
    vf difference = x - target, size = v_abs(difference);
    *slope = v_select(size > v_set1(0.0f), v_with_sign(v_set1(1.0f), difference), difference);
    return size;
}

/* d**2 / 2 where abs(d) <= delta, d = x - target, else delta (abs(d) - delta / 2) */
INLINE vf huber_(vf x, vf target, float delta, vf *slope) {
    const vf limit = v_set1(delta);
    vf difference = x - target, size = v_abs(difference);
    vf inside = v_min(limit, size); /* a NaN comes through */
    *slope = v_with_sign(inside, difference);
    return inside * v_fma(v_set1(-0.5f), inside, size);
}

/* log(1 + exp(x)) - target x, computed with exp(-abs(x)), which cannot overflow */
INLINE vf logistic(vf x, vf target, float delta, vf *slope) {
    (void)delta;
    const vf one = v_set1(1.0f), zero = {0};
    vf e = v_exp(-v_abs(x));
    *slope = v_select(x < zero, e, one) / (one + e) - target;
    return v_fma(-target, x, v_max(zero, x)) + v_log(one + e);
}

/* loss = sum(w * f(x, target)) / (count * F); dx = w f'(x, target) / (count * F) */
INLINE int mean_of_elements(element_fn *f, const fnn_elementwise_loss_args *a, fnn_part part) {
    if (part.share > 0) return FNN_OK;
    enum { CHUNK = 1024 }; /* floats that are summed in single precision */
    /* without weights all rows are as one */
    const int64_t n = a->weights ? a->n : 1, size = a->weights ? a->f : a->n * a->f;
    const int64_t count = count_rows(a->weights, n) * size;
    double total = 0;
    for (int64_t row = 0; row < n; row++) {
        const float *x = a->x + row * size, *target = a->target + row * size;
        float *dx = a->dx ? a->dx + row * size : NULL;
        const float weight = weight_of(a->weights, row);
        if (weight == 0) {
            clear_row(dx, size);
            continue;
        }
        const vf scale = v_set1((float)((double)weight / (double)count));
        for (int64_t lo = 0; lo < size; lo += CHUNK) {
            const int64_t hi = lo + CHUNK < size ? lo + CHUNK : size;
            vf sum = {0}, slope;
            int64_t i = lo;
            for (; i + VL <= hi; i += VL) {
                sum += f(v_load(x + i), v_load(target + i), a->delta, &slope);
                if (dx) v_store(dx + i, slope * scale);
            }
            if (i < hi) {
                int rest = (int)(hi - i);
                vf value = f(v_load_n(x + i, rest), v_load_n(target + i, rest), a->delta, &slope);
                sum += (vf)((vi)value & vi_first(rest));
                if (dx) v_store_n(dx + i, slope * scale, rest);
            }
            total += (double)weight * (double)v_hsum(sum);
        }
    }
    a->loss[0] = mean(total, count);
    return FNN_OK;
}

/* loss = sum(w * (x - target)**2) / (count * F); dx = 2 w (x - target) / (count * F) */
KERNEL(mean_squared_error) { return mean_of_elements(squared, a, part); }

/* loss = sum(w * abs(x - target)) / (count * F); dx = w sign(x - target) / (count * F) */
KERNEL(mean_absolute_error) { return mean_of_elements(absolute, a, part); }

/* d = x - target: loss = sum(w * (d**2 / 2 where abs(d) <= delta, else delta (abs(d) - delta / 2))) / (count * F);
 * dx = w min(max(d, -delta), delta) / (count * F) */
KERNEL(huber) { return mean_of_elements(huber_, a, part); }

/* loss = sum(w * (log(1 + exp(x)) - target x)) / (count * F); dx = w (1 / (1 + exp(-x)) - target) / (count * F);
 * correct = sum((x > 0) == (target > 0.5)) */
KERNEL(binary_cross_entropy) {
    if (part.share == 0) {
        int64_t correct = 0;
        for (int64_t row = 0; row < a->n; row++) {
            if (weight_of(a->weights, row) == 0) continue;
            const float *x = a->x + row * a->f, *target = a->target + row * a->f;
            for (int64_t j = 0; j < a->f; j++) correct += (x[j] > 0) == (target[j] > 0.5f);
        }
        a->correct[0] = correct;
    }
    return mean_of_elements(logistic, a, part);
}
