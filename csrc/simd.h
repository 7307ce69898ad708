/* The vector type that every kernel is written in: VL floats, 4, 8 or 16 of them by instruction set.
 *
 * A kernel file is compiled once per instruction set; FN(name) suffixes its symbols.  Arithmetic
 * (+ - * / and comparisons, which give lane masks) uses the compiler's vector extensions; what they
 * lack stands here.  Loads and stores never need alignment. */
#ifndef FASTNN_SIMD_H
#define FASTNN_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(FNN_EMULATE_AVX512) /* 16 lanes on any CPU, for tests */
#define VL 16
#elif defined(__AVX512F__)
#define VL 16
#define AVX512
#include <immintrin.h>
#elif defined(__AVX2__) && defined(__FMA__)
#define VL 8
#include <immintrin.h>
#else
#define VL 4
#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#endif

#ifdef FNN_ISA
#define FN_CAT2(a, b) a##_##b
#define FN_CAT(a, b) FN_CAT2(a, b)
#define FN(name) FN_CAT(fnn_##name, FNN_ISA)
#endif

#define INLINE static inline __attribute__((always_inline, unused))

/* the next loop, of a constant number of steps, whole */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

typedef float vf __attribute__((vector_size(4 * VL)));
typedef int32_t vi __attribute__((vector_size(4 * VL)));
typedef uint32_t vu __attribute__((vector_size(4 * VL)));

INLINE vf v_set1(float x) { return x - (vf){0}; }
INLINE vi vi_set1(int32_t x) { return x - (vi){0}; }
INLINE vu vu_set1(uint32_t x) { return x - (vu){0}; }

INLINE vf v_load(const float *p) { vf r; memcpy(&r, p, sizeof r); return r; }
INLINE void v_store(float *p, vf x) { memcpy(p, &x, sizeof x); }
INLINE vi vi_load(const int32_t *p) { vi r; memcpy(&r, p, sizeof r); return r; }

/* 0, 1, ..., VL - 1 */
INLINE vi vi_iota(void) {
    static const int32_t lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return vi_load(lanes);
}

/* all ones in the first n lanes */
INLINE vi vi_first(int n) { return vi_iota() < vi_set1(n); }

/* bit i tells whether lane i is not 0 */
INLINE unsigned v_filled(vf x) {
#ifdef AVX512
    return _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NEQ_UQ);
#elif VL == 8
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_NEQ_UQ));
#else
    unsigned bits = 0;
    for (int i = 0; i < VL; i++) bits |= (unsigned)(x[i] != 0) << i;
    return bits;
#endif
}

INLINE vf v_select(vi mask, vf yes, vf no) {
#if VL == 8
    return _mm256_blendv_ps(no, yes, (vf)mask);
#else
    return (vf)((mask & (vi)yes) | (~mask & (vi)no));
#endif
}

/* the first n lanes (0 < n <= VL) from memory, 0 in the others; never touches what lies beyond */
INLINE vf v_load_n(const float *p, int n) {
#ifdef AVX512
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
#elif VL == 8
    return _mm256_maskload_ps(p, (__m256i)vi_first(n));
#else
    vf r = {0};
    memcpy(&r, p, sizeof(float) * (size_t)n);
    return r;
#endif
}

INLINE void v_store_n(float *p, vf x, int n) {
#if defined(AVX512) || VL == 8
    /* in pieces: a masked store takes 20 times as long on AMD's cores without AVX-512; with it what is read next from
     * the lanes that were not written would wait for it */
    if (n == VL) {
        v_store(p, x);
        return;
    }
#ifdef AVX512
    __m256 half = _mm512_castps512_ps256(x);
    if (n & 8) {
        _mm256_storeu_ps(p, half);
        half = _mm512_extractf32x8_ps(x, 1);
        p += 8;
    }
#else
    const __m256 half = x;
#endif
    __m128 part = _mm256_castps256_ps128(half);
    if (n & 4) {
        _mm_storeu_ps(p, part);
        part = _mm256_extractf128_ps(half, 1);
        p += 4;
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)p, part);
        part = _mm_movehl_ps(part, part);
        p += 2;
    }
    if (n & 1) _mm_store_ss(p, part);
#else
    memcpy(p, &x, sizeof(float) * (size_t)n);
#endif
}

/* a * b + c, rounded once where the instruction set has it */
INLINE vf v_fma(vf a, vf b, vf c) {
#ifdef AVX512
    return _mm512_fmadd_ps(a, b, c);
#elif VL == 8
    return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
    return vfmaq_f32(c, a, b);
#else
    return a * b + c;
#endif
}

/* a > b ? a : b in every lane, so a NaN in b comes through */
INLINE vf v_max(vf a, vf b) {
#ifdef AVX512
    return _mm512_max_ps(a, b);
#elif VL == 8
    return _mm256_max_ps(a, b);
#elif VL == 4 && defined(__SSE2__)
    return _mm_max_ps(a, b);
#else
    return v_select(a > b, a, b);
#endif
}

INLINE vf v_min(vf a, vf b) {
#ifdef AVX512
    return _mm512_min_ps(a, b);
#elif VL == 8
    return _mm256_min_ps(a, b);
#elif VL == 4 && defined(__SSE2__)
    return _mm_min_ps(a, b);
#else
    return v_select(a < b, a, b);
#endif
}

INLINE vf v_abs(vf x) { return (vf)((vi)x & vi_set1(0x7fffffff)); }

INLINE vf v_sqrt(vf x) {
#ifdef AVX512
    return _mm512_sqrt_ps(x);
#elif VL == 8
    return _mm256_sqrt_ps(x);
#elif VL == 4 && defined(__SSE2__)
    return _mm_sqrt_ps(x);
#else
    for (int i = 0; i < VL; i++) x[i] = __builtin_sqrtf(x[i]);
    return x;
#endif
}

INLINE vf v_from_int(vi x) { return __builtin_convertvector(x, vf); }

/* p[0] in the even lanes, p[1] in the odd ones */
INLINE vf v_set2(const float *p) {
    typedef int64_t pairs __attribute__((vector_size(4 * VL)));
    int64_t both;
    memcpy(&both, p, sizeof both);
    return (vf)(both - (pairs){0});
}

/* lane i is x's lane index[i] */
INLINE vf v_permute(vf x, vi index) {
#ifdef AVX512
    return _mm512_permutexvar_ps((__m512i)index, x);
#elif VL == 8
    return _mm256_permutevar8x32_ps(x, (__m256i)index);
#else
    vf r;
    for (int i = 0; i < VL; i++) r[i] = x[index[i]];
    return r;
#endif
}

typedef uint8_t vb __attribute__((vector_size(VL)));

/* the first n bytes (0 < n <= VL) from memory, as integers */
INLINE vi vi_load_u8(const uint8_t *p, int n) {
#ifdef AVX512
    /* the compilers convert vectors of bytes one by one */
    return (vi)_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8((__mmask16)((1u << n) - 1u), p));
#else
    vb bytes = {0};
    memcpy(&bytes, p, n == VL ? sizeof bytes : (size_t)n);
#if VL == 8
    return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)&bytes));
#else
    return __builtin_convertvector(bytes, vi);
#endif
#endif
}

/* the low byte of the first n integers */
INLINE void vi_store_u8(uint8_t *p, vi x, int n) {
#ifdef AVX512
    _mm512_mask_cvtepi32_storeu_epi8(p, (__mmask16)((1u << n) - 1u), (__m512i)x);
#elif VL == 8
    __m128i low = _mm_packus_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
    low = _mm_packus_epi16(low, low);
    memcpy(p, &low, n == VL ? VL : (size_t)n);
#else
    const vb bytes = __builtin_convertvector(x, vb);
    memcpy(p, &bytes, n == VL ? sizeof bytes : (size_t)n);
#endif
}

/* VL bytes as floats 0..255 */
INLINE vf v_load_u8(const uint8_t *p) { return v_from_int(vi_load_u8(p, VL)); }

/* horizontal reductions: halves folded, the same order on every call */
#ifdef AVX512
#define HALF_OF(x, fold) fold(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1))
#else
#define HALF_OF(x, fold) (x)
#endif
INLINE float v_hsum(vf x) {
#if defined(AVX512) || VL == 8
    const __m256 half = HALF_OF(x, _mm256_add_ps);
    __m128 t = _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1);
    t = t + _mm_movehl_ps(t, t);
    return t[0] + t[1];
#else
    float t[VL];
    v_store(t, x);
    for (int w = VL / 2; w > 0; w /= 2)
        for (int i = 0; i < w; i++) t[i] += t[i + w];
    return t[0];
#endif
}

INLINE float v_hmax(vf x) {
#if defined(AVX512) || VL == 8
    const __m256 half = HALF_OF(x, _mm256_max_ps);
    __m128 t = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    t = _mm_max_ps(t, _mm_movehl_ps(t, t));
    return t[0] > t[1] ? t[0] : t[1];
#else
    float t[VL];
    v_store(t, x);
    for (int w = VL / 2; w > 0; w /= 2)
        for (int i = 0; i < w; i++) t[i] = t[i] > t[i + w] ? t[i] : t[i + w];
    return t[0];
#endif
}

typedef float v4 __attribute__((vector_size(16)));
INLINE v4 v4_load(const float *p) { v4 r; memcpy(&r, p, sizeof r); return r; }

/* four numbers from k on of every fourth line, beside each other */
INLINE vf v_load_fours(const float *const *line, int64_t k) {
#if VL == 4
    return v4_load(line[0] + k);
#else
    typedef float v8 __attribute__((vector_size(32)));
    const v8 low = __builtin_shufflevector(v4_load(line[0] + k), v4_load(line[4] + k), 0, 1, 2, 3, 4, 5, 6, 7);
#if VL == 8
    return low;
#else
    const v8 high = __builtin_shufflevector(v4_load(line[8] + k), v4_load(line[12] + k), 0, 1, 2, 3, 4, 5, 6, 7);
    return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#endif
#endif
}

/* of every four lanes the same four of x's (0 ... 3) and y's (4 ... 7) */
#define FOURS_LANE(i, four) ((i) % 4 + (i) / 4 * VL + 4 * (four))
#define FOURS_LANES(i, j, k, l, four) FOURS_LANE(i, four), FOURS_LANE(j, four), FOURS_LANE(k, four), FOURS_LANE(l, four)
#if VL == 4
#define PICK(x, y, ...) __builtin_shufflevector(x, y, FOURS_LANES(__VA_ARGS__, 0))
#elif VL == 8
#define PICK(x, y, ...) __builtin_shufflevector(x, y, FOURS_LANES(__VA_ARGS__, 0), FOURS_LANES(__VA_ARGS__, 1))
#else
#define PICK(x, y, ...)                                                                            \
    __builtin_shufflevector(x, y, FOURS_LANES(__VA_ARGS__, 0), FOURS_LANES(__VA_ARGS__, 1), FOURS_LANES(__VA_ARGS__, 2), FOURS_LANES(__VA_ARGS__, 3))
#endif

/* Every four lanes of four vectors are a matrix that is transposed. */
INLINE void v_transpose_fours(vf r[4]) {
    const vf s0 = PICK(r[0], r[1], 0, 4, 1, 5), s1 = PICK(r[2], r[3], 0, 4, 1, 5);
    const vf s2 = PICK(r[0], r[1], 2, 6, 3, 7), s3 = PICK(r[2], r[3], 2, 6, 3, 7);
    r[0] = PICK(s0, s1, 0, 1, 4, 5), r[1] = PICK(s0, s1, 2, 3, 6, 7);
    r[2] = PICK(s2, s3, 0, 1, 4, 5), r[3] = PICK(s2, s3, 2, 3, 6, 7);
}

/* the sums of VL vectors' lanes; the vectors are lost */
INLINE vf v_sum_lanes(vf r[VL]) {
    UNROLL for (int i = 0; i < VL; i += 4) {
        v_transpose_fours(r + i);
        r[i / 4] = (r[i] + r[i + 1]) + (r[i + 2] + r[i + 3]);
    }
#if VL == 16
    for (int i = 0; i < 2; i++)
        r[i] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
               __builtin_shufflevector(r[2 * i], r[2 * i + 1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    return __builtin_shufflevector(r[0], r[1], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           __builtin_shufflevector(r[0], r[1], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
#elif VL == 8
    return __builtin_shufflevector(r[0], r[1], 0, 1, 2, 3, 8, 9, 10, 11) +
           __builtin_shufflevector(r[0], r[1], 4, 5, 6, 7, 12, 13, 14, 15);
#else
    return r[0];
#endif
}

#endif
