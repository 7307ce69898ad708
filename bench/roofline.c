/* Two loops that reach a core's limits: fused multiply-adds in registers, and vector loads; and one that passes
 * a cache line to and fro. Compiled by roofline.py for the machine at hand; never part of the package. */
#include <stddef.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4 * LANES)));

enum { CHAINS = 12 }; /* >= latency x ports of every current core, <= 16 registers with the two operands */

int lanes(void) { return LANES; }
int chains(void) { return CHAINS; }

/* steps x CHAINS x LANES multiply-adds; returns a value so that none can be dropped. */
float fma_loop(long steps, float a, float b)
{
    vec va = a - (vec){0}, vb = b - (vec){0}, acc[CHAINS];
    for (int j = 0; j < CHAINS; j++)
        acc[j] = vb * (float)j;
    for (long i = 0; i < steps; i++) {
#pragma GCC unroll 12
        for (int j = 0; j < CHAINS; j++)
            acc[j] = acc[j] * va + vb;
    }
    vec sum = acc[0];
    for (int j = 1; j < CHAINS; j++)
        sum += acc[j];
    return sum[0] + sum[LANES - 1];
}

/* Reads n floats (a multiple of 8 vectors, aligned) `repeats` times. */
float read_loop(const float *data, size_t n, long repeats)
{
    const vec *v = (const vec *)data;
    vec acc[8] = {{0}};
    for (long r = 0; r < repeats; r++) {
        for (size_t i = 0; i < n / LANES; i += 8) {
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++)
                acc[j] += v[i + j];
        }
        __asm__ volatile("" ::: "memory"); /* the next pass must read again */
    }
    vec sum = acc[0];
    for (int j = 1; j < 8; j++)
        sum += acc[j];
    return sum[0] + sum[LANES - 1];
}

/* Waits `rounds` times until *turn is mine, and then makes it the other's. */
void pass_loop(int *turn, int mine, long rounds)
{
    for (long i = 0; i < rounds; i++) {
        while (__atomic_load_n(turn, __ATOMIC_ACQUIRE) != mine)
            ;
        __atomic_store_n(turn, 1 - mine, __ATOMIC_RELEASE);
    }
}
