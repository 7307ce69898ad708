/* Pooling of channels-last images, forward and backward.  Threads split the rows of what they write.
 *
 * Vectors run along channels.  The last vector of a pixel overlaps the one before it; with fewer
 * channels than a vector has, it overlaps the next pixel, which is written later, and only at the
 * end of a row it is a part of one. */
#include "pool.h"
#include "tile.h"

/* places in a window, in bytes where they fit */
INLINE void store_index(void *index, bool wide, int64_t at, vi places, int lanes) {
    if (wide) memcpy((int32_t *)index + at, &places, sizeof(int32_t) * (lanes == VL ? VL : (size_t)lanes));
    else vi_store_u8((uint8_t *)index + at, places, lanes);
}

INLINE vi load_index(const void *index, bool wide, int64_t at, int lanes) {
    vi places = {0};
    if (!wide) return vi_load_u8((const uint8_t *)index + at, lanes);
    memcpy(&places, (const int32_t *)index + at, sizeof(int32_t) * (lanes == VL ? VL : (size_t)lanes));
    return places;
}

/* ---- forward -------------------------------------------------------------------------------- */

/* The places [lo, hi) of the window at i, along an axis, that are in the image. */
typedef struct { int64_t first, lo, hi; } span;

INLINE span inside(int64_t i, int64_t stride, int64_t before, int64_t window, int64_t size) {
    const int64_t first = i * stride - before;
    return (span){first, first < 0 ? -first : 0, min64(window, size - first)};
}

/* The largest of a window, and its place; NaN is the largest. */
INLINE vf window_max(const float *x, ptrdiff_t down, ptrdiff_t right, span rows, span columns, int64_t kw, int lanes, vi *place) {
    vf best = load_part(x + rows.lo * down + columns.lo * right, lanes);
    *place = vi_set1((int32_t)(rows.lo * kw + columns.lo));
    for (int64_t r = rows.lo; r < rows.hi; r++)
        for (int64_t q = columns.lo; q < columns.hi; q++) {
            const vf value = load_part(x + r * down + q * right, lanes);
            const vi better = ~(best >= value) & (best == best);
            best = v_select(better, value, best);
            *place = (vi)v_select(better, (vf)vi_set1((int32_t)(r * kw + q)), (vf)*place);
        }
    return best;
}

/* By rows, so that no sum is long. */
INLINE vf window_sum(const float *x, ptrdiff_t down, ptrdiff_t right, span rows, span columns, int lanes) {
    vf sum = {0};
    for (int64_t r = rows.lo; r < rows.hi; r++) {
        vf row = {0};
        for (int64_t q = columns.lo; q < columns.hi; q++) row += load_part(x + r * down + q * right, lanes);
        sum += row;
    }
    return sum;
}

/* The channels of one window; k: its height and width if they are known and all of it is inside, or 0 */
INLINE void forward_pixel(const bool max, const int k, const pooling *p, const float *x, span rows, span columns, int64_t at, int lanes) {
    const ptrdiff_t right = p->shape.c, down = p->shape.w * right;
    const int64_t kw = k ? k : p->shape.kw;
    if (k) rows = columns = (span){0, 0, k};
    for (int64_t left = p->shape.c; left > 0; left -= VL) {
        const int64_t c = left >= VL ? p->shape.c - left : p->shape.c > VL ? p->shape.c - VL : 0;
        if (max) {
            vi place;
            const vf best = window_max(x + c, down, right, rows, columns, kw, lanes, &place);
            store_part(p->out + at + c, best, lanes);
            if (p->index) store_index(p->index, p->wide, at + c, place, lanes);
        } else {
            const int64_t count = (rows.hi - rows.lo) * (columns.hi - columns.lo);
            const float scale = p->by_count ? p->scale / (float)count : p->scale;
            store_part(p->out + at + c, scale * window_sum(x + c, down, right, rows, columns, lanes), lanes);
        }
    }
}

INLINE void forward(const bool max, const int k, const pooling *p, int64_t lo, int64_t hi) {
    const fnn_pool2d *s = &p->shape;
    const int64_t c = s->c;
    for (int64_t row = lo; row < hi; row++) {
        const span rows = inside(row % s->oh, s->sh, s->top, s->kh, s->h);
        const float *x = p->x + (row / s->oh * s->h + rows.first) * s->w * c;
        for (int64_t j = 0; j < s->ow; j++) {
            const span columns = inside(j, s->sw, s->left, s->kw, s->w);
            const int64_t last = columns.first + columns.hi - 1; /* pixel of x that is read */
            const bool spills = c < VL && (j * c + VL > s->ow * c || last * c + VL > s->w * c);
            const float *from = x + columns.first * c;
            const int64_t at = (row * s->ow + j) * c;
            const bool whole = rows.hi - rows.lo == s->kh && columns.hi - columns.lo == s->kw;
            if (spills) forward_pixel(max, 0, p, from, rows, columns, at, (int)c);
            else if (k && whole) forward_pixel(max, k, p, from, rows, columns, at, VL);
            else forward_pixel(max, 0, p, from, rows, columns, at, VL);
        }
    }
}

void FN(maxpool_rows)(const pooling *p, int64_t lo, int64_t hi) {
    if (p->shape.kh == 2 && p->shape.kw == 2) forward(true, 2, p, lo, hi);
    else if (p->shape.kh == 3 && p->shape.kw == 3) forward(true, 3, p, lo, hi);
    else forward(true, 0, p, lo, hi);
}

static void mean_rows(const pooling *p, int64_t lo, int64_t hi) {
    if (p->shape.kh == 2 && p->shape.kw == 2) forward(false, 2, p, lo, hi);
    else forward(false, 0, p, lo, hi);
}

/* ---- backward ------------------------------------------------------------------------------- */

/* The gradient of a window at `at`, and the place that it goes to. */
typedef struct { vf dout; vi index; } given;

INLINE given load_given(const bool max, const pooling *p, int64_t at, float scale, int lanes) {
    vf dout = load_part(p->x + at, lanes);
    if (max && p->mask) dout = v_select(load_part(p->mask + at, lanes) > (vf){0}, dout, (vf){0});
    if (max) return (given){dout, load_index(p->index, p->wide, at, lanes)};
    return (given){scale * dout, {0}};
}

/* What the pixel at `place` of the window gets of it. */
INLINE vf share_of(const bool max, given g, int64_t place) {
    return max ? (vf)((vi)g.dout & (g.index == vi_set1((int32_t)place))) : g.dout;
}

/* Window (i, j) divides its sum by as many pixels as it has in the image. */
static float mean_scale(const pooling *p, int64_t i, int64_t j) {
    const fnn_pool2d *s = &p->shape;
    const span rows = inside(i, s->sh, s->top, s->kh, s->h), columns = inside(j, s->sw, s->left, s->kw, s->w);
    return p->scale / (float)((rows.hi - rows.lo) * (columns.hi - columns.lo));
}

/* The pixels [q0, q1) of a window, from `place` on; dx is that of the first; beyond kw they get 0. */
INLINE void apart_window(const bool max, const int k, const pooling *p, int64_t at, int64_t place, int64_t q0, int64_t q1, float scale, float *dx, int lanes) {
    const int64_t channels = p->shape.c;
    for (int64_t left = channels; left > 0; left -= VL) {
        const int64_t c = left >= VL ? channels - left : channels > VL ? channels - VL : 0;
        const given g = load_given(max, p, at + c, scale, lanes);
        if (k)
            for (int q = 0; q < k; q++) v_store(dx + q * channels + c, share_of(max, g, place + q));
        else
            for (int64_t q = q0; q < q1; q++) {
                const vf share = q < p->shape.kw ? share_of(max, g, place + q) : (vf){0};
                store_part(dx + (q - q0) * channels + c, share, lanes);
            }
    }
}

/* One row of dx where windows do not overlap: row r of the windows at i gives each pixel its share, or 0. */
INLINE void backward_apart(const bool max, const pooling *p, int64_t image, int64_t i, int64_t r, float *dx) {
    const fnn_pool2d *s = &p->shape;
    const int64_t c = s->c, row = (image * s->oh + i) * s->ow;
    int64_t x = 0; /* the pixels from x to stop are those from this window to the next */
    for (int64_t j = 0, stop; j < s->ow; j++, x = stop) {
        const int64_t first = j * s->sw - s->left, q0 = x - first, at = (row + j) * c;
        stop = j + 1 < s->ow ? first + s->sw : s->w;
        const float scale = p->by_count ? mean_scale(p, i, j) : p->scale;
        const bool spills = c < VL && ((stop - 1) * c + VL > s->w * c || j * c + VL > s->ow * c);
        if (spills) apart_window(max, 0, p, at, r * s->kw, q0, stop - first, scale, dx + x * c, (int)c);
        else if (q0 == 0 && stop == first + 2 && s->kw == 2) apart_window(max, 2, p, at, r * 2, 0, 2, scale, dx + x * c, VL);
        else apart_window(max, 0, p, at, r * s->kw, q0, stop - first, scale, dx + x * c, VL);
    }
}

/* A pixel of dx is the sum over the windows i and j that have it, in their order; at: of window (0, 0),
 * place: the pixel's in that window. */
INLINE void overlapping_pixel(const bool max, const pooling *p, const int64_t *i, const int64_t *j, int64_t at, int64_t place, float *dx, int lanes) {
    const fnn_pool2d *s = &p->shape;
    for (int64_t left = s->c; left > 0; left -= VL) {
        const int64_t c = left >= VL ? s->c - left : s->c > VL ? s->c - VL : 0;
        vf sum = {0};
        for (int64_t a = i[0]; a < i[1]; a++)
            for (int64_t b = j[0]; b < j[1]; b++) {
                const float scale = p->by_count ? mean_scale(p, a, b) : p->scale;
                const given g = load_given(max, p, at + (a * s->ow + b) * s->c + c, scale, lanes);
                sum += share_of(max, g, place - a * s->sh * s->kw - b * s->sw);
            }
        store_part(dx + c, sum, lanes);
    }
}

/* One row of dx in general, y, which the windows i have. */
INLINE void backward_overlapping(const bool max, const pooling *p, int64_t image, int64_t y, const int64_t *i, float *dx) {
    const fnn_pool2d *s = &p->shape;
    const int64_t c = s->c, at = image * s->oh * s->ow * c;
    int64_t j[2] = {0, 0};
    for (int64_t x = 0; x < s->w; x++) {
        while (j[0] * s->sw - s->left + s->kw <= x) j[0]++;
        while (j[1] < s->ow && j[1] * s->sw - s->left <= x) j[1]++;
        const int64_t place = (y + s->top) * s->kw + x + s->left;
        const bool spills = c < VL && (x * c + VL > s->w * c || (j[1] - 1) * c + VL > s->ow * c);
        if (spills) overlapping_pixel(max, p, i, j, at, place, dx + x * c, (int)c);
        else overlapping_pixel(max, p, i, j, at, place, dx + x * c, VL);
    }
}

INLINE void backward(const bool max, const pooling *p, fnn_part part) {
    const fnn_pool2d *s = &p->shape;
    const bool apart = s->sh >= s->kh && s->sw >= s->kw;
    int64_t lo, hi;
    fnn_range(s->n * s->h, 1, part, &lo, &hi);
    for (int64_t row = lo; row < hi; row++) {
        const int64_t image = row / s->h, y = row % s->h, at = y + s->top;
        const int64_t i[2] = {at < s->kh ? 0 : (at - s->kh) / s->sh + 1, min64(at / s->sh + 1, s->oh)};
        float *dx = p->out + row * s->w * s->c;
        if (i[0] >= i[1]) memset(dx, 0, sizeof(float) * (size_t)(s->w * s->c));
        else if (apart) backward_apart(max, p, image, i[0], at - i[0] * s->sh, dx);
        else backward_overlapping(max, p, image, y, i, dx);
    }
}

/* out = max of each window of x; index = its place r * KW + q, the first of equals */
KERNEL(maxpool2d_forward) {
    const pooling p = {.shape = a->shape, .x = a->x, .out = a->out, .wide = a->wide, .index = a->index};
    int64_t lo, hi;
    fnn_range(a->shape.n * a->shape.oh, 1, part, &lo, &hi);
    FN(maxpool_rows)(&p, lo, hi);
    return FNN_OK;
}

/* dx = sum of dout over the windows whose largest is this pixel */
KERNEL(maxpool2d_backward) {
    const pooling p = {.shape = a->shape, .x = a->dout, .out = a->dx, .wide = a->wide, .index = (void *)a->index, .mask = a->mask};
    backward(true, &p, part);
    return FNN_OK;
}

/* out = scale * sum of each window of x; by_count: scale / the window's pixels in the image */
KERNEL(avgpool2d_forward) {
    const pooling p = {.shape = a->shape, .x = a->x, .out = a->out, .scale = a->scale, .by_count = a->by_count};
    int64_t lo, hi;
    fnn_range(a->shape.n * a->shape.oh, 1, part, &lo, &hi);
    mean_rows(&p, lo, hi);
    return FNN_OK;
}

/* dx = sum of scale * dout over the windows that have this pixel */
KERNEL(avgpool2d_backward) {
    const pooling p = {.shape = a->shape, .x = a->dout, .out = a->dx, .scale = a->scale, .by_count = a->by_count};
    backward(false, &p, part);
    return FNN_OK;
}

/* out[n, i, j] = x[n, i / KH, j / KW] */
KERNEL(upsample2d_forward) { return avgpool2d_backward(a, part); }

/* dx = sum of dout over the copies of a pixel */
KERNEL(upsample2d_backward) { return avgpool2d_forward(a, part); }
