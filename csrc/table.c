/* The ops of one instruction set, in the order of the enum. */
#include "kernel.h"

#define DECLARE(name) int FN(name)(const void *args, fnn_part part);
FNN_OPS(DECLARE)

#define ENTRY(name) FN(name),
extern const fnn_fn FN(table)[FNN_OP_COUNT];
const fnn_fn FN(table)[FNN_OP_COUNT] = {FNN_OPS(ENTRY)};
