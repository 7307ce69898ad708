/* Which instruction set runs: every one that this build holds, best first, and the choice by CPUID. */
#include "fastnn.h"

#include <string.h>

#define FNN_NAME(name) #name,
const char *const fnn_op_names[FNN_OP_COUNT] = {FNN_OPS(FNN_NAME)};

extern const fnn_fn fnn_table_scalar[];
#ifdef FNN_X86
extern const fnn_fn fnn_table_avx2[], fnn_table_avx512[];
#endif

static const fnn_isa isas[] = {
#ifdef FNN_X86
    {"avx512", fnn_table_avx512},
    {"avx2", fnn_table_avx2},
#endif
    {"scalar", fnn_table_scalar},
};
enum { ISAS = sizeof isas / sizeof *isas };

const fnn_isa *fnn_current_isa = &isas[ISAS - 1];

static bool cpu_has(const char *name) {
#ifdef FNN_X86
    __builtin_cpu_init();
    if (!strcmp(name, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (!strcmp(name, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return !strcmp(name, "scalar");
}

const fnn_isa *fnn_available_isa(int i) {
    for (int j = 0; j < ISAS; j++)
        if (cpu_has(isas[j].name) && i-- == 0) return &isas[j];
    return NULL;
}

const fnn_isa *fnn_select_isa(const char *name) {
    const fnn_isa *isa;
    for (int i = 0; (isa = fnn_available_isa(i)); i++)
        if (!name || !strcmp(isa->name, name)) return fnn_current_isa = isa;
    return NULL;
}
