/* The three passes over a tile of a matrix, and over a piece of a vector. Included once for each REAL. */

/* What the second and third pass know of a matrix. */
struct NAME(factors) {
    REAL mean;            /* mean(R), not below its floor */
    REAL floor;           /* the smallest V-hat, 0 for none */
    REAL cap;             /* its inverse square root, infinity for none */
    const REAL *columns;  /* 1/sqrt(C) of all columns, or NULL */
};

static struct NAME(factors) NAME(factors_of)(const struct entry *e, double mean, const REAL *columns)
{
    REAL floor = (REAL)e->variance_floor;
    REAL cap = floor > 0 ? 1 / SQRT(floor) : (REAL)INFINITY;
    return (struct NAME(factors)){(REAL)mean, floor, cap, columns};
}

/* 1/sqrt(x). Without a floor of V-hat, x itself is kept from zero, as in plain.py. */
static inline REAL NAME(factor)(REAL x, REAL floor)
{
    if (floor == 0)
        x = x < TINY ? TINY : x;
    return 1 / SQRT(x);
}

static OUT_OF_LINE void NAME(column_factors)(const REAL *averages, int64_t count, REAL floor, REAL *restrict factors)
{
    if (floor == 0)
        for (int64_t j = 0; j < count; j++)
            factors[j] = 1 / SQRT(averages[j] < TINY ? TINY : averages[j]);
    else
        for (int64_t j = 0; j < count; j++)
            factors[j] = 1 / SQRT(averages[j]);
}

/* An average takes in the newest mean of squares. */
static inline REAL NAME(averaged)(const struct entry *e, REAL average, double sum, int64_t count)
{
    double omega = e->omega;
    return (REAL)((1 - omega) * (double)average + omega * (sum / (double)count + e->added));
}

/* mean(R) of a matrix, not below its floor; NaN stays NaN. */
static double NAME(mean_of)(const struct entry *e, int64_t matrix)
{
    int columns = (e->flags & MEAN_OF_COLUMNS) != 0;
    int64_t count = columns ? e->columns : e->rows;
    const REAL *averages = (const REAL *)(columns ? e->col_var : e->row_var) + matrix * count;
    double sums[8] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (int k = 0; k < 8; k++)
            sums[k] += (double)averages[i + k];
    for (; i < count; i++)
        sum += (double)averages[i];
    for (int k = 0; k < 8; k++)
        sum += sums[k];
    double mean = sum / (double)count;
    return mean < e->mean_floor ? e->mean_floor : mean;
}

/* First pass over up to four rows: adds their squares to the columns' sums and returns each row's own sum. */
static OUT_OF_LINE void NAME(square_rows)(const struct entry *e, const char *grads, REAL unscale, int64_t row, int64_t rows,
                              int64_t column, int64_t columns, REAL *restrict column_sums, double sums[4])
{
    static const REAL zeros[CHUNK];
    REAL buffers[4][CHUNK];
    for (int k = 0; k < 4; k++)
        sums[k] = 0;
    for (int64_t start = 0; start < columns; start += CHUNK) {
        int64_t count = columns - start < CHUNK ? columns - start : CHUNK, j = 0;
        const REAL *g[4] = {zeros, zeros, zeros, zeros};
        for (int k = 0; k < rows; k++)
            g[k] = NAME(read)(&e->grad, grads, row + k, column + start, count, unscale, buffers[k]);
        REAL *to = column_sums + start;
        NAME(vector) s0[VECTORS] = {0}, s1[VECTORS] = {0}, s2[VECTORS] = {0}, s3[VECTORS] = {0};
        REAL rest[4] = {0};
        for (; j + LANES <= count; j += LANES)
            for (int k = 0; k < VECTORS; k++) {
                NAME(vector) a = ((const NAME(vector) *)(g[0] + j))[k], b = ((const NAME(vector) *)(g[1] + j))[k];
                NAME(vector) c = ((const NAME(vector) *)(g[2] + j))[k], d = ((const NAME(vector) *)(g[3] + j))[k];
                a *= a;
                b *= b;
                c *= c;
                d *= d;
                s0[k] += a;
                s1[k] += b;
                s2[k] += c;
                s3[k] += d;
                ((NAME(vector) *)(to + j))[k] += (a + b) + (c + d);
            }
        for (; j < count; j++) {
            REAL squares[4];
            for (int k = 0; k < 4; k++) {
                squares[k] = g[k][j] * g[k][j];
                rest[k] += squares[k];
            }
            to[j] += (squares[0] + squares[1]) + (squares[2] + squares[3]);
        }
        sums[0] += (double)NAME(sum_of)(s0) + (double)rest[0];
        sums[1] += (double)NAME(sum_of)(s1) + (double)rest[1];
        sums[2] += (double)NAME(sum_of)(s2) + (double)rest[2];
        sums[3] += (double)NAME(sum_of)(s3) + (double)rest[3];
    }
}

static OUT_OF_LINE int NAME(is_zero)(const struct entry *e, const char *grads, int64_t row)
{
    REAL buffer[CHUNK];
    for (int64_t start = 0; start < e->columns; start += CHUNK) {
        int64_t count = e->columns - start < CHUNK ? e->columns - start : CHUNK;
        const REAL *g = NAME(read)(&e->grad, grads, row, start, count, 1, buffer);
        int zero = 1;
        for (int64_t j = 0; j < count; j++)
            zero &= g[j] == 0;
        if (!zero)
            return 0;
    }
    return 1;
}

static OUT_OF_LINE double NAME(squares_of_p)(const struct entry *e, const struct tile *t)
{
    const char *params = matrix_of(e, &e->param, t->matrix, size_of(e->param.dtype));
    REAL buffer[CHUNK];
    double sum = 0;
    for (int64_t i = t->row; i < t->row + t->rows; i++)
        for (int64_t start = t->column; start < t->column + t->columns; start += CHUNK) {
            int64_t left = t->column + t->columns - start, count = left < CHUNK ? left : CHUNK;
            sum += NAME(sum_of_squares)(NAME(read)(&e->param, params, i, start, count, 1, buffer), count);
        }
    return sum;
}

/* First pass over a tile. The columns' sums go to `slot`, or at once into C if it is NULL: the tile then has all rows.
 * The rows' sums go to `row_sums`, one in `apart`, or at once into R if it is NULL: the tile then has all columns. */
static OUT_OF_LINE void NAME(squares)(const struct entry *e, const struct tile *t, REAL unscale, double *slot, double *row_sums,
                          int64_t apart, uint8_t *zero_rows)
{
    const char *grads = matrix_of(e, &e->grad, t->matrix, size_of(e->grad.dtype));
    REAL *R = (REAL *)e->row_var + t->matrix * e->rows, *C = (REAL *)e->col_var + t->matrix * e->columns;
    REAL sums[SPAN];
    double totals[SPAN];
    for (int64_t span = t->column; span < t->column + t->columns; span += SPAN) {
        int64_t left = t->column + t->columns - span, width = left < SPAN ? left : SPAN;
        double *total = slot ? slot + span : totals;
        for (int64_t j = 0; j < width; j++)
            total[j] = 0;
        for (int64_t fold = t->row; fold < t->row + t->rows; fold += FOLD) {
            int64_t below = t->row + t->rows - fold, end = fold + (below < FOLD ? below : FOLD);
            for (int64_t j = 0; j < width; j++)
                sums[j] = 0;
            for (int64_t i = fold; i < end; i += 4) {
                int64_t rows = end - i < 4 ? end - i : 4;
                double row_sum[4];
                NAME(square_rows)(e, grads, unscale, i, rows, span, width, sums, row_sum);
                for (int64_t k = 0; k < rows; k++) {
                    int first = span == t->column;
                    if (row_sums)
                        row_sums[(i + k) * apart] = (first ? 0 : row_sums[(i + k) * apart]) + row_sum[k];
                    else if (first)
                        R[i + k] = NAME(averaged)(e, R[i + k], row_sum[k], e->columns);
                    else
                        R[i + k] = (REAL)((double)R[i + k] + e->omega * (row_sum[k] / (double)e->columns));
                    if (zero_rows && first) {
                        uint8_t bit = (uint8_t)(1u << ((i + k) & 7));
                        int zero = row_sum[k] == 0 && NAME(is_zero)(e, grads, i + k);
                        zero_rows[(i + k) >> 3] = (uint8_t)(zero ? zero_rows[(i + k) >> 3] | bit
                                                                 : zero_rows[(i + k) >> 3] & ~bit);
                    }
                }
            }
            for (int64_t j = 0; j < width; j++)
                total[j] += (double)sums[j];
        }
        if (!slot)
            for (int64_t j = 0; j < width; j++)
                C[span + j] = NAME(averaged)(e, C[span + j], total[j], e->rows);
    }
}

/* 1/sqrt(C) of a span of columns: those of all columns where they are known. */
static const REAL *NAME(factors_of_span)(const struct entry *e, const struct NAME(factors) *f, int64_t matrix,
                                         int64_t span, int64_t width, REAL *restrict buffer)
{
    if (f->columns)
        return f->columns + span;
    NAME(column_factors)((const REAL *)e->col_var + matrix * e->columns + span, width, f->floor, buffer);
    return buffer;
}

/* U on a piece of a row: G * min(1/sqrt(r) * 1/sqrt(C), 1/epsilon1), where the minimum of NaN is NaN. */
static OUT_OF_LINE void NAME(update_row)(const REAL *g, const REAL *columns, REAL row, REAL cap, int64_t count,
                                    REAL *restrict u)
{
    for (int64_t j = 0; j < count; j++) {
        REAL inverse = row * columns[j];
        u[j] = g[j] * (cap < inverse ? cap : inverse);
    }
}

/* Second pass over a tile: the sum of U^2. */
static OUT_OF_LINE double NAME(updates)(const struct entry *e, const struct tile *t, REAL unscale, const struct NAME(factors) *f,
                            const uint8_t *zero_rows)
{
    const char *grads = matrix_of(e, &e->grad, t->matrix, size_of(e->grad.dtype));
    const REAL *R = (const REAL *)e->row_var + t->matrix * e->rows;
    REAL buffer[CHUNK], u[CHUNK], factors[SPAN];
    double sum = 0;
    for (int64_t span = t->column; span < t->column + t->columns; span += SPAN) {
        int64_t left = t->column + t->columns - span, width = left < SPAN ? left : SPAN;
        const REAL *columns = NAME(factors_of_span)(e, f, t->matrix, span, width, factors);
        for (int64_t i = t->row; i < t->row + t->rows; i++) {
            if (is_set(zero_rows, i))
                continue;
            REAL row = NAME(factor)(R[i] / f->mean, f->floor);
            for (int64_t start = 0; start < width; start += CHUNK) {
                int64_t count = width - start < CHUNK ? width - start : CHUNK;
                const REAL *g = NAME(read)(&e->grad, grads, i, span + start, count, unscale, buffer);
                NAME(update_row)(g, columns + start, row, f->cap, count, u);
                sum += NAME(sum_of_squares)(u, count);
            }
        }
    }
    return sum;
}

/* The end of the third pass: p in the parameter's dtype. */
static OUT_OF_LINE void NAME(write_back)(const struct entry *e, const struct place *at, int64_t row, int64_t column, int64_t count,
                             const REAL *values)
{
#if REAL_IS_FLOAT
    if (e->flags & STOCHASTIC) {
        int64_t stride = e->param.column_stride;
        uint16_t *to = (uint16_t *)at->params + row * e->param.row_stride + column * stride;
        uint16_t bits[CHUNK];
        uint32_t row_of_all = (uint32_t)(at->matrix * e->rows + row);
        for (int64_t j = 0; j < count; j += BLOCK * BLOCKS)
            random_blocks(e->seed, (uint32_t)((column + j) / BLOCK), row_of_all, (uint32_t)(int64_t)e->t,
                          (uint32_t)e->index, bits + j);
        if (stride == 1)
            for (int64_t j = 0; j < count; j++)
                to[j] = bfloat16_at_random(values[j], bits[j]);
        else
            for (int64_t j = 0; j < count; j++)
                to[j * stride] = bfloat16_at_random(values[j], bits[j]);
        return;
    }
#endif
    NAME(write)(&e->param, at->params, row, column, count, values);
}

/* p = decay*p - scale*u on a piece of a row; with momentum, minus the average of these updates. */
static OUT_OF_LINE void NAME(apply_row)(const struct entry *e, const struct place *at, int64_t row, int64_t column, int64_t count,
                            const REAL *restrict u, double scale, double decay)
{
    REAL buffer[CHUNK], moments[CHUNK];
    REAL *p = (REAL *)NAME(read)(&e->param, at->params, row, column, count, 1, buffer);
    REAL keep = (REAL)decay, by = (REAL)scale;
    if (at->averages) {
        REAL *m = (REAL *)NAME(read)(&e->exp_avg, at->averages, row, column, count, 1, moments);
        REAL beta1 = (REAL)e->beta1, newest = (REAL)((1 - e->beta1) * scale);
        for (int64_t j = 0; j < count; j++) {
            m[j] = beta1 * m[j] + newest * u[j];
            p[j] = keep * p[j] - m[j];
        }
        if (!NAME(in_place)(&e->exp_avg))
            NAME(write)(&e->exp_avg, at->averages, row, column, count, m);
    } else
        for (int64_t j = 0; j < count; j++)
            p[j] = keep * p[j] - by * u[j];
    if (!NAME(in_place)(&e->param))
        NAME(write_back)(e, at, row, column, count, p);
}

/* Third pass over a tile. */
static OUT_OF_LINE void NAME(apply)(const struct entry *e, const struct tile *t, REAL unscale, const struct NAME(factors) *f,
                        const uint8_t *zero_rows, double scale, double decay)
{
    struct place at = place_of(e, t->matrix);
    const REAL *R = (const REAL *)e->row_var + t->matrix * e->rows;
    REAL buffer[CHUNK], u[CHUNK], factors[SPAN];
    for (int64_t span = t->column; span < t->column + t->columns; span += SPAN) {
        int64_t left = t->column + t->columns - span, width = left < SPAN ? left : SPAN;
        const REAL *columns = NAME(factors_of_span)(e, f, t->matrix, span, width, factors);
        for (int64_t i = t->row; i < t->row + t->rows; i++) {
            if (is_set(zero_rows, i))
                continue;
            REAL row = NAME(factor)(R[i] / f->mean, f->floor);
            for (int64_t start = 0; start < width; start += CHUNK) {
                int64_t count = width - start < CHUNK ? width - start : CHUNK;
                const REAL *g = NAME(read)(&e->grad, at.grads, i, span + start, count, unscale, buffer);
                NAME(update_row)(g, columns + start, row, f->cap, count, u);
                NAME(apply_row)(e, &at, i, span + start, count, u, scale, decay);
            }
        }
    }
}

/* U on a piece of a vector. */
static OUT_OF_LINE void NAME(update_vector)(const REAL *g, const REAL *v, REAL floor, int64_t count, REAL *restrict u)
{
    for (int64_t j = 0; j < count; j++)
        u[j] = g[j] * (1 / SQRT(v[j] < floor ? floor : v[j]));
}

/* First and second pass over a piece of a vector: V takes in G^2; the sum of U^2. */
static OUT_OF_LINE double NAME(measure_vector)(const struct entry *e, int64_t start, int64_t end, REAL unscale)
{
    REAL buffer[CHUNK], u[CHUNK];
    REAL keep = (REAL)(1 - e->omega), newest = (REAL)e->omega, added = (REAL)(e->omega * e->added);
    double sum = 0;
    for (; start < end; start += CHUNK) {
        int64_t count = end - start < CHUNK ? end - start : CHUNK;
        const REAL *g = NAME(read)(&e->grad, e->grad.data, 0, start, count, unscale, buffer);
        REAL *restrict v = (REAL *)e->variance + start;
        for (int64_t j = 0; j < count; j++)
            v[j] = keep * v[j] + added + newest * (g[j] * g[j]);
        NAME(update_vector)(g, v, (REAL)e->variance_floor, count, u);
        sum += NAME(sum_of_squares)(u, count);
    }
    return sum;
}

/* Third pass over a piece of a vector. */
static OUT_OF_LINE void NAME(apply_vector)(const struct entry *e, int64_t start, int64_t end, REAL unscale, double scale,
                               double decay)
{
    struct place at = place_of(e, 0);
    REAL buffer[CHUNK], u[CHUNK];
    for (; start < end; start += CHUNK) {
        int64_t count = end - start < CHUNK ? end - start : CHUNK;
        const REAL *g = NAME(read)(&e->grad, at.grads, 0, start, count, unscale, buffer);
        NAME(update_vector)(g, (const REAL *)e->variance + start, (REAL)e->variance_floor, count, u);
        NAME(apply_row)(e, &at, 0, start, count, u, scale, decay);
    }
}
