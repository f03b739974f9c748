/* The innermost loops, over pieces of four rows at a time. Included once for each REAL and each NUMBER, the dtype that
 * numbers are read in: REAL, or the 16 bits of a bfloat16. */

/* Number i as REAL, and vector number v of those that begin at x. */
#if NUMBER_IS_REAL
#define AT(x, i) (x)[i]
#define VECTOR_AT(x, v) NAME(load)(x, v)
#else
#define AT(x, i) float_of_bfloat16((x)[i])
#define VECTOR_AT(x, v) load_bfloat16(x, v)
#endif

/* First pass: adds the squares of four rows to the columns' sums and to each row's own. */
static OUT_OF_LINE void KERNEL(square_rows)(const NUMBER *const g[4], int64_t count, REAL *restrict columns,
                                            double sums[4])
{
    NAME(vector) s[4][VECTORS] = {{{0}}};
    REAL rest[4] = {0};
    int64_t j = 0;
    for (; j + LANES <= count; j += LANES)
        for (int v = 0; v < VECTORS; v++) {
            NAME(vector) a = VECTOR_AT(g[0] + j, v), b = VECTOR_AT(g[1] + j, v);
            NAME(vector) c = VECTOR_AT(g[2] + j, v), d = VECTOR_AT(g[3] + j, v);
            a *= a;
            b *= b;
            c *= c;
            d *= d;
            s[0][v] += a;
            s[1][v] += b;
            s[2][v] += c;
            s[3][v] += d;
            NAME(store)(columns + j, v, NAME(load)(columns + j, v) + ((a + b) + (c + d)));
        }
    for (; j < count; j++) {
        REAL squares[4];
        for (int k = 0; k < 4; k++) {
            squares[k] = AT(g[k], j) * AT(g[k], j);
            rest[k] += squares[k];
        }
        columns[j] += (squares[0] + squares[1]) + (squares[2] + squares[3]);
    }
    for (int k = 0; k < 4; k++)
        sums[k] += (double)NAME(sum_of)(s[k]) + (double)rest[k];
}

/* The sum of the squares of four rows. */
static OUT_OF_LINE double KERNEL(sum_of_squares)(const NUMBER *const x[4], int64_t count)
{
    NAME(vector) s[4][VECTORS] = {{{0}}};
    REAL rest[4] = {0};
    int64_t j = 0;
    for (; j + LANES <= count; j += LANES)
        for (int v = 0; v < VECTORS; v++)
            for (int k = 0; k < 4; k++) {
                NAME(vector) value = VECTOR_AT(x[k] + j, v);
                s[k][v] += value * value;
            }
    for (; j < count; j++)
        for (int k = 0; k < 4; k++)
            rest[k] += AT(x[k], j) * AT(x[k], j);
    double sum = 0;
    for (int k = 0; k < 4; k++)
        sum += (double)NAME(sum_of)(s[k]) + (double)rest[k];
    return sum;
}

/* Second pass: the sum of U^2 over four rows, U = G * min(1/sqrt(r) * 1/sqrt(C), 1/epsilon1); NaN stays NaN. */
static OUT_OF_LINE double KERNEL(sum_updates)(const NUMBER *const g[4], const REAL *columns, const REAL rows[4],
                                              REAL cap, int64_t count)
{
    NAME(vector) s[4][VECTORS] = {{{0}}};
    REAL rest[4] = {0};
    int64_t j = 0;
    for (; j + LANES <= count; j += LANES)
        for (int v = 0; v < VECTORS; v++) {
            NAME(vector) column = NAME(load)(columns + j, v);
            for (int k = 0; k < 4; k++) {
                NAME(vector) u = VECTOR_AT(g[k] + j, v) * NAME(at_most)(cap, rows[k] * column);
                s[k][v] += u * u;
            }
        }
    for (; j < count; j++)
        for (int k = 0; k < 4; k++) {
            REAL inverse = rows[k] * columns[j], u = AT(g[k], j) * (cap < inverse ? cap : inverse);
            rest[k] += u * u;
        }
    double sum = 0;
    for (int k = 0; k < 4; k++)
        sum += (double)NAME(sum_of)(s[k]) + (double)rest[k];
    return sum;
}

/* Third pass: keep*p - by*U of four rows; `out` may be p. */
static OUT_OF_LINE void KERNEL(apply_rows)(const NUMBER *const g[4], const NUMBER *const p[4], const REAL *columns,
                                           const REAL rows[4], REAL cap, REAL keep, REAL by, int64_t count,
                                           REAL *const out[4])
{
    enum { WIDTH = VECTOR_BYTES / sizeof(REAL) };
    int64_t j = 0;
    for (; j + WIDTH <= count; j += WIDTH) {
        NAME(vector) column = NAME(load)(columns + j, 0);
        for (int k = 0; k < 4; k++) {
            NAME(vector) u = VECTOR_AT(g[k] + j, 0) * NAME(at_most)(cap, rows[k] * column);
            NAME(store)(out[k] + j, 0, keep * VECTOR_AT(p[k] + j, 0) - by * u);
        }
    }
    for (; j < count; j++)
        for (int k = 0; k < 4; k++) {
            REAL inverse = rows[k] * columns[j], u = AT(g[k], j) * (cap < inverse ? cap : inverse);
            out[k][j] = keep * AT(p[k], j) - by * u;
        }
}

#undef AT
#undef VECTOR_AT
