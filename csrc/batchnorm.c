/* Batch normalisation of rows of channels: sums over rows, shared between threads by chunks, and the
 * passes over all elements that use them. */
#include "tile.h"

/* ---- sums over rows, in double ---------------------------------------------------------------- */

enum { LANES = 4, GROUP = 4 * LANES }; /* channels of a vector of doubles, and of a thread's share */
typedef float v4f __attribute__((vector_size(4 * LANES)));
typedef double v4d __attribute__((vector_size(8 * LANES)));

/* through a pointer, because a vector wider than the registers has no calling convention */
INLINE void load_doubles(const float *p, int lanes, v4d *to) {
    v4f x = {0};
    if (lanes == LANES) memcpy(&x, p, sizeof x);
    else
        for (int i = 0; i < lanes; i++) x[i] = p[i];
    *to = __builtin_convertvector(x, v4d);
}

/* sum(x), sum((x - mean)**2), or sum(dout) and sum(dout * (x - mean)) */
typedef enum { SUM, SQUARES, GRADIENTS } kind;

/* Adds up `rows` rows of nv vectors, 4 / nv rows at once so that additions need not wait. */
INLINE void sum_rows(const kind kind, const int nv, const float *dout, const float *x, ptrdiff_t stride, int64_t rows,
                     const double *mean, double *first, double *second, const int lanes) {
    const int step = 4 / nv;
    v4d a[4] = {{0}}, b[4] = {{0}}, m[4] = {{0}};
    for (int v = 0; v < nv; v++) memcpy(&m[v], mean + v * LANES, sizeof m[v]);
    for (int64_t r = 0; r < rows; r += step)
        for (int u = 0; u < step && r + u < rows; u++)
            for (int v = 0; v < nv; v++) {
                const ptrdiff_t at = (r + u) * stride + v * LANES;
                v4d value, d;
                load_doubles(x + at, lanes, &value);
                if (kind == SUM) a[u * nv + v] += value;
                if (kind == SQUARES) a[u * nv + v] += (value - m[v]) * (value - m[v]);
                if (kind == GRADIENTS) {
                    load_doubles(dout + at, lanes, &d);
                    a[u * nv + v] += d;
                    b[u * nv + v] += d * (value - m[v]);
                }
            }
    for (int v = 0; v < nv; v++) {
        for (int u = 1; u < step; u++) a[v] += a[u * nv + v], b[v] += b[u * nv + v];
        memcpy(first + v * LANES, &a[v], sizeof a[v]);
        memcpy(second + v * LANES, &b[v], sizeof b[v]);
    }
}

/* Few channels that fill no vector are summed as if FOLD rows were one. */
enum { FOLD = 4, SPACE = FOLD * GROUP + LANES };

INLINE void sum_columns(const kind kind, const float *dout, const float *x, ptrdiff_t stride, int64_t rows, int width,
                        const double *mean, double *first, double *second) {
    for (int j = 0; j < width;) {
        const float *d = kind == GRADIENTS ? dout + j : NULL;
        const int left = width - j;
        if (left >= GROUP) sum_rows(kind, 4, d, x + j, stride, rows, mean + j, first + j, second + j, LANES), j += GROUP;
        else if (left >= LANES) sum_rows(kind, 1, d, x + j, stride, rows, mean + j, first + j, second + j, LANES), j += LANES;
        else sum_rows(kind, 1, d, x + j, stride, rows, mean + j, first + j, second + j, left), j = width;
    }
}

INLINE void sum_folded(const kind kind, const float *dout, const float *x, ptrdiff_t stride, int64_t rows, int width,
                       const double *mean, double *first, double *second) {
    if (width != stride || width % LANES == 0) {
        sum_columns(kind, dout, x, stride, rows, width, mean, first, second);
        return;
    }
    const int64_t rest = rows % FOLD, done = (rows - rest) * stride;
    double means[SPACE] = {0}, a[SPACE], b[SPACE];
    for (int j = 0; j < width * FOLD; j++) means[j] = mean[j % width];
    sum_columns(kind, dout, x, stride * FOLD, rows / FOLD, width * FOLD, means, a, b);
    sum_columns(kind, kind == GRADIENTS ? dout + done : NULL, x + done, stride, rest, width, mean, first, second);
    for (int j = 0; j < width * FOLD; j++) first[j % width] += a[j], second[j % width] += b[j];
}

/* of each chunk of rows: mean = sum(x) / rows and sum((x - mean)**2); or, with dout, sum(dout) and
 * sum(dout * (x - mean)), mean being that of all rows */
KERNEL(batchnorm_sums) {
    const int64_t chunks = (a->n + FNN_BATCHNORM_ROWS - 1) / FNN_BATCHNORM_ROWS, groups = (a->c + GROUP - 1) / GROUP;
    int64_t lo, hi;
    fnn_range(chunks * groups, 1, part, &lo, &hi);
    for (int64_t unit = lo; unit < hi; unit++) {
        const int64_t chunk = unit / groups, row = chunk * FNN_BATCHNORM_ROWS, rows = min64(FNN_BATCHNORM_ROWS, a->n - row);
        const int64_t channel = unit % groups * GROUP, at = row * a->c + channel;
        const int width = (int)min64(GROUP, a->c - channel);
        double mean[SPACE] = {0}, first[SPACE], second[SPACE], unused[SPACE]; /* SPACE: whole vectors */
        if (a->dout) {
            for (int j = 0; j < width; j++) mean[j] = (double)a->mean[channel + j];
            sum_folded(GRADIENTS, a->dout + at, a->x + at, a->c, rows, width, mean, first, second);
        } else {
            sum_folded(SUM, NULL, a->x + at, a->c, rows, width, mean, first, unused);
            for (int j = 0; j < width; j++) first[j] = mean[j] = first[j] / (double)rows;
            sum_folded(SQUARES, NULL, a->x + at, a->c, rows, width, mean, second, unused);
        }
        memcpy(a->scratch + chunk * 2 * a->c + channel, first, sizeof *first * (size_t)width);
        memcpy(a->scratch + (chunk * 2 + 1) * a->c + channel, second, sizeof *second * (size_t)width);
    }
    return FNN_OK;
}

/* of chunks with mean m, squares s and k rows: mean = sum(k m) / N, var = sum(s + k (m - mean)**2) / N */
KERNEL(batchnorm_moments) {
    int64_t lo, hi;
    fnn_range(a->c, GROUP, part, &lo, &hi);
    for (int64_t j = lo; j < hi; j++) {
        const double *of = a->scratch + j;
        double mean = 0, squares = 0;
        for (int64_t row = 0; row < a->n; row += FNN_BATCHNORM_ROWS, of += 2 * a->c)
            mean += *of * (double)min64(FNN_BATCHNORM_ROWS, a->n - row);
        mean /= (double)a->n;
        of = a->scratch + j;
        for (int64_t row = 0; row < a->n; row += FNN_BATCHNORM_ROWS, of += 2 * a->c)
            squares += of[a->c] + (*of - mean) * (*of - mean) * (double)min64(FNN_BATCHNORM_ROWS, a->n - row);
        a->mean[j] = (float)mean;
        a->var[j] = (float)(squares / (double)a->n);
    }
    return FNN_OK;
}

/* dgamma = sum(dout * (x - mean)) / sqrt(var + eps), dbeta = sum(dout), from the sums of the chunks */
KERNEL(batchnorm_gradients) {
    int64_t lo, hi;
    fnn_range(a->c, GROUP, part, &lo, &hi);
    for (int64_t j = lo; j < hi; j++) {
        const double *of = a->scratch + j;
        double dbeta = 0, dgamma = 0;
        for (int64_t row = 0; row < a->n; row += FNN_BATCHNORM_ROWS, of += 2 * a->c) dbeta += of[0], dgamma += of[a->c];
        a->dbeta[j] = (float)dbeta;
        a->dgamma[j] = (float)(dgamma / __builtin_sqrt((double)a->var[j] + (double)a->eps));
    }
    return FNN_OK;
}

/* ---- passes over all elements --------------------------------------------------------------- */

/* What an element needs of its channel, as often as fills a vector where channels are few. */
enum { BLOCK = 1 << 15 };
typedef struct { float *mean, *scale, *shift, *slope; } table;

/* forward: (x - mean) * scale + shift; backward: (dout - shift - (x - mean) * slope) * scale */
INLINE void pass_vector(const bool backward, const table *t, int64_t j, const float *dout, const float *x, float *out, int lanes) {
    const vf centred = load_part(x, lanes) - load_part(t->mean + j, lanes);
    const vf scale = load_part(t->scale + j, lanes), shift = load_part(t->shift + j, lanes);
    if (!backward) store_part(out, v_fma(centred, scale, shift), lanes);
    else store_part(out, (load_part(dout, lanes) - shift - centred * load_part(t->slope + j, lanes)) * scale, lanes);
}

/* Columns [0, width) of this thread's rows, which are `stride` floats long; the last may be shorter. */
INLINE void pass(const bool backward, const table *t, const float *dout, const float *x, float *out, int64_t size, int64_t stride, int64_t width, fnn_part part) {
    int64_t lo, hi;
    fnn_range((size + stride - 1) / stride, 1, part, &lo, &hi);
    for (int64_t row = lo; row < hi; row++) {
        const int64_t start = row * stride, end = min64(width, size - start);
        int64_t j = 0;
        for (; j + VL <= end; j += VL) pass_vector(backward, t, j, dout + start + j, x + start + j, out + start + j, VL);
        if (j < end) pass_vector(backward, t, j, dout + start + j, x + start + j, out + start + j, (int)(end - j));
    }
}

static table table_in(void) {
    float *space = fnn_workspace();
    return (table){space, space + BLOCK, space + 2 * BLOCK, space + 3 * BLOCK};
}

/* out = (x - mean) / sqrt(var + eps) * gamma + beta */
KERNEL(batchnorm_forward) {
    const table t = table_in();
    const int64_t repeats = a->c < VL ? VL : 1;
    for (int64_t first = 0; first < a->c; first += BLOCK) {
        const int64_t width = min64(BLOCK, a->c - first);
        for (int64_t j = 0; j < width * repeats; j++) {
            const int64_t channel = first + j % width;
            t.mean[j] = a->mean[channel];
            t.scale[j] = a->gamma[channel] / __builtin_sqrtf(a->var[channel] + a->eps);
            t.shift[j] = a->beta[channel];
        }
        pass(false, &t, a->x, a->x + first, a->out + first, a->n * a->c - first, a->c * repeats, width * repeats, part);
    }
    return FNN_OK;
}

/* forward: out = u gamma + beta, u = (x - mean) / sqrt(var + eps); mean and var are sums over the rows:
 * dx = gamma / sqrt(var + eps) (dout - dbeta / N - u dgamma / N) */
KERNEL(batchnorm_backward) {
    const table t = table_in();
    const int64_t repeats = a->c < VL ? VL : 1;
    for (int64_t first = 0; first < a->c; first += BLOCK) {
        const int64_t width = min64(BLOCK, a->c - first);
        for (int64_t j = 0; j < width * repeats; j++) {
            const int64_t channel = first + j % width;
            const float scale = 1.0f / __builtin_sqrtf(a->var[channel] + a->eps);
            t.mean[j] = a->mean[channel];
            t.scale[j] = a->gamma[channel] * scale;
            t.shift[j] = a->dbeta[channel] / (float)a->n;
            t.slope[j] = scale * a->dgamma[channel] / (float)a->n;
        }
        pass(true, &t, a->dout + first, a->x + first, a->dx + first, a->n * a->c - first, a->c * repeats, width * repeats, part);
    }
    return FNN_OK;
}

/* running_mean += momentum * (mean - running_mean), running_var += momentum * (var * N / (N - 1) - running_var) */
KERNEL(batchnorm_update) {
    int64_t lo, hi;
    fnn_range(a->c, GROUP, part, &lo, &hi);
    const float unbiased = (float)a->rows / (float)(a->rows > 1 ? a->rows - 1 : 1);
    for (int64_t j = lo; j < hi; j++) {
        a->running_mean[j] += a->momentum * (a->mean[j] - a->running_mean[j]);
        a->running_var[j] += a->momentum * (a->var[j] * unbiased - a->running_var[j]);
    }
    return FNN_OK;
}
