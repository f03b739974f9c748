/* The innermost loops for pieces of rows of whichever dtype they are of. Included once for each REAL. */

#define NUMBER REAL
#define NUMBER_IS_REAL 1
#define KERNEL(name) JOIN(JOIN(name, REAL), real)
#include "kernels.h"
#undef NUMBER
#undef NUMBER_IS_REAL
#undef KERNEL

#if REAL_IS_FLOAT
#define NUMBER uint16_t
#define NUMBER_IS_REAL 0
#define KERNEL(name) JOIN(JOIN(name, REAL), bfloat16)
#include "kernels.h"
#undef NUMBER
#undef NUMBER_IS_REAL
#undef KERNEL
#define CALL(name, pieces, ...)                                                                                        \
    ((pieces)->dtype == BFLOAT16                                                                                       \
         ? JOIN(JOIN(name, REAL), bfloat16)((const uint16_t *const *)(pieces)->row, __VA_ARGS__)                       \
         : JOIN(JOIN(name, REAL), real)((const REAL *const *)(pieces)->row, __VA_ARGS__))
#else
#define CALL(name, pieces, ...) JOIN(JOIN(name, REAL), real)((const REAL *const *)(pieces)->row, __VA_ARGS__)
#endif

static inline void NAME(square_rows)(const struct pieces *g, int64_t count, REAL *restrict columns, double sums[4])
{
    CALL(square_rows, g, count, columns, sums);
}

static inline double NAME(sum_of_squares)(const struct pieces *x, int64_t count)
{
    return CALL(sum_of_squares, x, count);
}

static inline double NAME(sum_updates)(const struct pieces *g, const REAL *columns, const REAL rows[4], REAL cap,
                                       int64_t count)
{
    return CALL(sum_updates, g, columns, rows, cap, count);
}

/* g and p are of one dtype. */
static inline void NAME(apply_rows)(const struct pieces *g, const struct pieces *p, const REAL *columns,
                                    const REAL rows[4], REAL cap, REAL keep, REAL by, int64_t count, REAL *const out[4])
{
    CALL(apply_rows, g, (const void *)p->row, columns, rows, cap, keep, by, count, out);
}

#undef CALL
