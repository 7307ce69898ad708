/* Activations, dropout and softmax, forward and backward.  Threads split the elements (or rows); an
 * element is computed in the same way wherever the cut falls. */
#include "kernel.h"
#include "vecmath.h"

/* A share starts on a cache line. */
#define GRAIN 64

/* ---- activations: y from x, and dx = dout * slope(saved) -------------------------------------- */

/* NaN comes through: v_max gives its second argument where the comparison fails */
INLINE vf relu(vf x, vf slope) { (void)slope; return v_max(v_set1(0.0f), x); }
INLINE vf leaky_relu(vf x, vf slope) { return v_select(x > v_set1(0.0f), x, slope * x); }
INLINE vf sigmoid(vf x, vf slope) { (void)slope; return v_sigmoid(x); }
INLINE vf tanh_(vf x, vf slope) { (void)slope; return v_tanh(x); }

/* x (slope + (1 - slope) P(x)) with P(x) = (1 + erf(x / sqrt 2)) / 2 */
INLINE vf gelu(vf x, vf slope) {
    const vf half = v_set1(0.5f);
    vf rise = v_fma(-half, slope, half) * x, middle = v_fma(half, slope, half) * x;
    return v_fma(rise, v_erf(v_set1(0x1.6a09e6p-1f) * x), middle);
}

/* the approximate form has P(x) = (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x**3), which is
 * 1 / (1 + exp(-2 u)) */
#define GELU_A 0x1.988454p0f /* of 2 u = A x + B x**3 */
#define GELU_B 0x1.2444f2p-4f
INLINE vf gelu_tanh(vf x, vf slope) {
    const vf one = v_set1(1.0f);
    vf rate = v_fma(v_set1(-GELU_B), x * x, v_set1(-GELU_A));
    return x * v_fma(one - slope, one / (one + v_exp(rate * x)), slope);
}

/* out = maximum(x, 0): dx = dout where out > 0 */
INLINE vf relu_grad(vf dout, vf out, vf slope) {
    (void)slope;
    return (vf)((vi)dout & (out > v_set1(0.0f)));
}

/* out = x where x > 0 else slope * x: dx = dout where out > 0 else slope * dout */
INLINE vf leaky_relu_grad(vf dout, vf out, vf slope) {
    return v_select(out > v_set1(0.0f), dout, slope * dout);
}

/* out = 1 / (1 + exp(-x)): dx = dout out (1 - out) */
INLINE vf sigmoid_grad(vf dout, vf out, vf slope) {
    (void)slope;
    return dout * out * (v_set1(1.0f) - out);
}

/* out = tanh(x): dx = dout (1 - out**2) */
INLINE vf tanh_grad(vf dout, vf out, vf slope) {
    (void)slope;
    return dout * v_fma(-out, out, v_set1(1.0f));
}

/* out = x (slope + (1 - slope) P(x)): dx = dout (slope + (1 - slope) (P(x) + x P'(x))) */
INLINE vf gelu_grad(vf dout, vf x, vf slope) {
    const vf half = v_set1(0.5f);
    return dout * v_fma(v_set1(1.0f) - slope, v_gelu_slope(x), v_fma(half, slope, half));
}

/* the same with P(x) = s = 1 / (1 + exp(-2 u)): P'(x) = s (1 - s) (2 u)' */
INLINE vf gelu_tanh_grad(vf dout, vf x, vf slope) {
    const vf one = v_set1(1.0f);
    x = v_min(v_set1(16.0f), v_max(v_set1(-16.0f), x)); /* flat beyond, and x**2 cannot overflow */
    vf square = x * x;
    vf s = one / (one + v_exp(v_fma(v_set1(-GELU_B), square, v_set1(-GELU_A)) * x));
    vf rise = v_fma(v_set1(3 * GELU_B), square, v_set1(GELU_A)) * x;
    return dout * v_fma(one - slope, s * v_fma(one - s, rise, one), slope);
}

typedef vf map_fn(vf x, vf slope);
typedef vf grad_fn(vf dout, vf saved, vf slope);

INLINE void map(map_fn *f, float slope, const float *x, float *y, int64_t n) {
    vf s = v_set1(slope);
    int64_t i = 0;
    for (; i + VL <= n; i += VL) v_store(y + i, f(v_load(x + i), s));
    if (i < n) v_store_n(y + i, f(v_load_n(x + i, (int)(n - i)), s), (int)(n - i));
}

INLINE void map_grad(grad_fn *f, float slope, const float *dout, const float *saved, float *dx, int64_t n) {
    vf s = v_set1(slope);
    int64_t i = 0;
    for (; i + VL <= n; i += VL) v_store(dx + i, f(v_load(dout + i), v_load(saved + i), s));
    if (i < n) {
        int rest = (int)(n - i);
        v_store_n(dx + i, f(v_load_n(dout + i, rest), v_load_n(saved + i, rest), s), rest);
    }
}

void FN(activate)(fnn_activation f, float slope, const float *x, float *y, int64_t n) {
    switch (f) {
    case FNN_LINEAR: break; /* nobody asks for it */
    case FNN_RELU: map(relu, slope, x, y, n); break;
    case FNN_LEAKY_RELU: map(leaky_relu, slope, x, y, n); break;
    case FNN_SIGMOID: map(sigmoid, slope, x, y, n); break;
    case FNN_TANH: map(tanh_, slope, x, y, n); break;
    case FNN_GELU: map(gelu, slope, x, y, n); break;
    case FNN_GELU_TANH: map(gelu_tanh, slope, x, y, n); break;
    }
}

static void activate_grad(fnn_activation f, float slope, const float *dout, const float *saved, float *dx, int64_t n) {
    switch (f) {
    case FNN_LINEAR: break;
    case FNN_RELU: map_grad(relu_grad, slope, dout, saved, dx, n); break;
    case FNN_LEAKY_RELU: map_grad(leaky_relu_grad, slope, dout, saved, dx, n); break;
    case FNN_SIGMOID: map_grad(sigmoid_grad, slope, dout, saved, dx, n); break;
    case FNN_TANH: map_grad(tanh_grad, slope, dout, saved, dx, n); break;
    case FNN_GELU: map_grad(gelu_grad, slope, dout, saved, dx, n); break;
    case FNN_GELU_TANH: map_grad(gelu_tanh_grad, slope, dout, saved, dx, n); break;
    }
}

void FN(activate_backward)(fnn_activation f, float slope, const float *saved, float *dx, int64_t n) {
    activate_grad(f, slope, dx, saved, dx, n);
}

#define SHARE(grain) \
    int64_t lo, hi; \
    fnn_range(a->n, grain, part, &lo, &hi)

#define FORWARD(name, kind, slope)                                                                 \
    KERNEL(name) {                                                                                 \
        SHARE(GRAIN);                                                                              \
        FN(activate)(kind, slope, a->x + lo, a->out + lo, hi - lo);                                \
        return FNN_OK;                                                                             \
    }
#define BACKWARD(name, kind, slope, saved)                                                         \
    KERNEL(name) {                                                                                 \
        SHARE(GRAIN);                                                                              \
        activate_grad(kind, slope, a->dout + lo, a->saved + lo, a->dx + lo, hi - lo);              \
        return FNN_OK;                                                                             \
    }

FORWARD(relu_forward, FNN_RELU, 0)
BACKWARD(relu_backward, FNN_RELU, 0, out)
FORWARD(leaky_relu_forward, FNN_LEAKY_RELU, a->slope)
BACKWARD(leaky_relu_backward, FNN_LEAKY_RELU, a->slope, out)
FORWARD(sigmoid_forward, FNN_SIGMOID, 0)
BACKWARD(sigmoid_backward, FNN_SIGMOID, 0, out)
FORWARD(tanh_forward, FNN_TANH, 0)
BACKWARD(tanh_backward, FNN_TANH, 0, out)
FORWARD(gelu_forward, a->approximate ? FNN_GELU_TANH : FNN_GELU, a->slope)
BACKWARD(gelu_backward, a->approximate ? FNN_GELU_TANH : FNN_GELU, a->slope, x)

/* ---- sum of two ------------------------------------------------------------------------------- */

/* out = x + y */
KERNEL(add) {
    const fnn_add_args s = *a;
#define ADD(i, n) store_part(s.out + i, load_part(s.x + i, n) + load_part(s.y + i, n), n)
    FOR_VECTORS(s.n, 16 * VL, ADD);
    return FNN_OK;
}

/* ---- dropout ---------------------------------------------------------------------------------- */

typedef uint64_t vq __attribute__((vector_size(4 * VL)));
enum { BLOCKS = VL / 2 }; /* Philox blocks in a vq: one word to a 64-bit lane, in its low half */

INLINE vq vq_set1(uint64_t x) { return x - (vq){0}; }

/* the low halves of the lanes, multiplied to 64 bits */
INLINE vq vq_mul32(vq a, vq b) {
#ifdef AVX512
    return (vq)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif VL == 8
    return (vq)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif VL == 4 && defined(__SSE2__)
    return (vq)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
    return (a & 0xffffffff) * (b & 0xffffffff);
#endif
}

/* What all elements of a step share. */
typedef struct {
    vq key[10][2]; /* of every round of Philox4x32-10 */
    vq counter[4]; /* but for the block's number in word 0 */
    vu threshold;
} mask_rule;

INLINE void philox_round(const vq key[2], vq c[4]) {
    vq p0 = vq_mul32(c[0], vq_set1(0xD2511F53)), p1 = vq_mul32(c[2], vq_set1(0xCD9E8D57));
    c[0] = (p1 >> 32) ^ (c[1] ^ key[0]);
    c[1] = p1;
    c[2] = (p0 >> 32) ^ (c[3] ^ key[1]);
    c[3] = p0;
}

/* mask[e] = word e % 4 of block first + e / 4 >= threshold, for the 4 * VL elements from block first */
INLINE void make_mask(const mask_rule *rule, int64_t first, uint8_t *mask) {
    const vq low = vq_set1(0xffffffff);
    const vq *c = rule->counter, block = c[0] + vq_set1((uint64_t)first);
    vq even[4] = {block, c[1], c[2], c[3]}, odd[4] = {block + vq_set1(1), c[1], c[2], c[3]};
    /* side by side: a round alone would wait for its own multiplications */
    for (int round = 0; round < 10; round++) {
        philox_round(rule->key[round], even);
        philox_round(rule->key[round], odd);
    }
    vu bytes = {0};
    for (int word = 0; word < 4; word++) {
        vu words = (vu)((even[word] & low) | odd[word] << 32); /* lane i is block first + i */
        bytes |= (vu)(words >= rule->threshold) & vu_set1(1u << 8 * word);
    }
    memcpy(mask, &bytes, sizeof bytes); /* byte 4 i + word of it: the targets are little-endian */
}

static mask_rule rule_of(const fnn_dropout_forward_args *a) {
    const uint64_t step = (uint64_t)a->clock[FNN_STEP];
    const double threshold = a->rate * 0x1p32 + 0.5;
    mask_rule rule;
    uint32_t key0 = (uint32_t)a->seed, key1 = (uint32_t)(a->seed >> 32);
    for (int round = 0; round < 10; round++) {
        rule.key[round][0] = vq_set1(key0);
        rule.key[round][1] = vq_set1(key1);
        key0 += 0x9E3779B9;
        key1 += 0xBB67AE85;
    }
    for (int i = 0; i < BLOCKS; i++) rule.counter[0][i] = 2 * (uint64_t)i;
    rule.counter[1] = vq_set1((uint32_t)step);
    rule.counter[2] = vq_set1(step >> 32);
    rule.counter[3] = vq_set1(a->stream);
    rule.threshold = vu_set1(threshold < 0x1p32 ? (uint32_t)threshold : UINT32_MAX);
    return rule;
}

/* x * scale where the mask is 1, else 0 */
INLINE vf drop(vf x, vf scale, vf mask) { return (vf)((vi)(x * scale) & (mask != v_set1(0.0f))); }

static void apply_mask(const float *x, float scale, const uint8_t *mask, float *out, int64_t n) {
    vf s = v_set1(scale);
    int64_t i = 0;
    for (; i + VL <= n; i += VL) v_store(out + i, drop(v_load(x + i), s, v_load_u8(mask + i)));
    for (; i < n; i++) out[i] = mask[i] ? x[i] * scale : 0.0f;
}

static float keep_scale(double rate) { return (float)(1.0 / (1.0 - rate)); }

/* mask = philox >= rate * 2**32; out = x * mask / (1 - rate) */
KERNEL(dropout_forward) {
    enum { CHUNK = 4 * VL };
    SHARE(GRAIN);
    const mask_rule rule = rule_of(a);
    const float scale = keep_scale(a->rate);
    int64_t i = lo;
    for (; i + CHUNK <= hi; i += CHUNK) {
        make_mask(&rule, i / 4, a->mask + i);
        for (int j = 0; j < CHUNK; j += VL)
            v_store(a->out + i + j,
                    drop(v_load(a->x + i + j), v_set1(scale), v_load_u8(a->mask + i + j)));
    }
    if (i < hi) {
        uint8_t mask[CHUNK];
        make_mask(&rule, i / 4, mask);
        memcpy(a->mask + i, mask, (size_t)(hi - i));
        apply_mask(a->x + i, scale, mask, a->out + i, hi - i);
    }
    return FNN_OK;
}

/* out = x * mask / (1 - rate): dx = dout * mask / (1 - rate) */
KERNEL(dropout_backward) {
    SHARE(GRAIN);
    apply_mask(a->dout + lo, keep_scale(a->rate), a->mask + lo, a->dx + lo, hi - lo);
    return FNN_OK;
}

/* ---- softmax, by rows ------------------------------------------------------------------------- */

/* out = exp(x - max) / sum(exp(x - max)) */
KERNEL(softmax_forward) {
    SHARE(1);
    const int64_t c = a->c, whole = c / VL * VL;
    const int rest = (int)(c - whole);
    for (int64_t i = lo; i < hi; i++) {
        const float *x = a->x + i * c;
        float *out = a->out + i * c;
        vf max = v_set1(v_row_max(x, c)), sum = {0}, last = {0};
        for (int64_t j = 0; j < whole; j += VL) {
            vf e = v_exp(v_load(x + j) - max);
            v_store(out + j, e);
            sum += e;
        }
        if (rest) {
            last = (vf)((vi)v_exp(v_load_n(x + whole, rest) - max) & vi_first(rest));
            sum += last;
        }
        vf scale = v_set1(1.0f / v_hsum(sum));
        for (int64_t j = 0; j < whole; j += VL) v_store(out + j, v_load(out + j) * scale);
        if (rest) v_store_n(out + whole, last * scale, rest);
    }
    return FNN_OK;
}

/* out = softmax(x): dx = out * (dout - sum(dout * out)) */
KERNEL(softmax_backward) {
    SHARE(1);
    const int64_t c = a->c, whole = c / VL * VL;
    const int rest = (int)(c - whole);
    for (int64_t i = lo; i < hi; i++) {
        const float *dout = a->dout + i * c, *out = a->out + i * c;
        float *dx = a->dx + i * c;
        vf sum = {0}, last_dout = {0}, last_out = {0};
        for (int64_t j = 0; j < whole; j += VL) sum = v_fma(v_load(dout + j), v_load(out + j), sum);
        if (rest) {
            last_dout = v_load_n(dout + whole, rest);
            last_out = v_load_n(out + whole, rest);
            sum = v_fma(last_dout, last_out, sum);
        }
        vf dot = v_set1(v_hsum(sum));
        for (int64_t j = 0; j < whole; j += VL)
            v_store(dx + j, v_load(out + j) * (v_load(dout + j) - dot));
        if (rest) v_store_n(dx + whole, last_out * (last_dout - dot), rest);
    }
    return FNN_OK;
}
