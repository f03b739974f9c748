/* Items of work for shards: the passes of items.h one by one, with sums that processes add up in between. Included once
 * for each REAL. */

/* What this process adds to the sum of a matrix's new R: it is linear in the old R and in the sums of G^2. */
static void NAME(sum_means)(const struct entry *e, int64_t matrix)
{
    if (!e->mean_sums)
        return;
    int columns = (e->flags & MEAN_OF_COLUMNS) != 0;
    int64_t count = columns ? e->columns : e->rows, other_size = columns ? e->whole_rows : e->whole_columns;
    const REAL *averages = (const REAL *)(columns ? e->col_var : e->row_var) + matrix * count;
    const void *sums = columns ? e->column_sums : e->row_sums;
    double newest = 0, old = 0;
    for (int64_t i = 0; i < count; i++) {
        newest += sum_at(e, sums, matrix * count + i);
        old += (double)averages[i];
    }
    double total = e->omega * (newest / (double)other_size);
    if (e->flags & HOLDS_FACTOR)
        total += (1 - e->omega) * old + e->omega * e->added * (double)count;
    set_sum(e, e->mean_sums, matrix, total);
}

/* Updates R and C of a matrix with the sums of all processes. */
static OUT_OF_LINE void NAME(fold_sums)(const struct entry *e, int64_t matrix)
{
    REAL *R = (REAL *)e->row_var, *C = (REAL *)e->col_var;
    for (int64_t i = matrix * e->rows; i < (matrix + 1) * e->rows; i++)
        R[i] = NAME(averaged)(e, R[i], sum_at(e, e->row_sums, i), e->whole_columns);
    for (int64_t j = matrix * e->columns; j < (matrix + 1) * e->columns; j++)
        C[j] = NAME(averaged)(e, C[j], sum_at(e, e->column_sums, j), e->whole_rows);
}

/* First pass over a piece of a vector, or over a group of small matrices: the sum of p^2. */
static double NAME(measure_squares)(const struct step *step, const struct entry *e, const struct grid *pieces,
                                    int64_t piece)
{
    double squares_of_p = 0;
    if (!(e->flags & FACTORED)) {
        struct tile tile = NAME(tile_of)(e, 0, pieces, piece);
        return e->parameter_sum ? NAME(squares_of_p)(e, &tile) : 0;
    }
    int64_t end = smaller((piece + 1) * pieces->rows, matrices_of(e));
    for (int64_t matrix = piece * pieces->rows; matrix < end; matrix++) {
        struct tile tile = {matrix, 0, e->rows, 0, e->columns};
        if (e->parameter_sum)
            squares_of_p += NAME(squares_of_p)(e, &tile);
        NAME(squares)(e, &tile, (REAL)step->unscale, NULL, NULL, 1, NULL);
        NAME(sum_means)(e, matrix);
    }
    return squares_of_p;
}

/* Second pass over those: the sum of U^2. */
static double NAME(measure_updates)(const struct step *step, const struct entry *e, const struct grid *pieces,
                                    int64_t piece)
{
    REAL unscale = (REAL)step->unscale;
    if (!(e->flags & FACTORED)) {
        struct tile tile = NAME(tile_of)(e, 0, pieces, piece);
        return NAME(measure_vector)(e, tile.column, tile.column + tile.columns, unscale);
    }
    double squares_of_u = 0;
    int64_t end = smaller((piece + 1) * pieces->rows, matrices_of(e));
    for (int64_t matrix = piece * pieces->rows; matrix < end; matrix++) {
        struct tile tile = {matrix, 0, e->rows, 0, e->columns};
        NAME(fold_sums)(e, matrix);
        struct NAME(factors) f = NAME(factors_of)(e, NAME(mean_of)(e, matrix), NULL);
        squares_of_u += NAME(updates)(e, &tile, unscale, &f, NULL);
    }
    return squares_of_u;
}

/* Where this pass keeps its sum over the whole shard, or NULL, and over its pieces. */
static void *NAME(sum_of_pass)(const struct step *step, const struct entry *e)
{
    return step->phase == SUM_SQUARES ? e->parameter_sum : e->update_sum;
}

static double *NAME(sums_of_pieces)(const struct step *step)
{
    return step->phase == SUM_SQUARES ? step->scratch->squares_of_p[0] : step->scratch->squares_of_u[0];
}

static void NAME(run_measure_of_shard)(struct step *step, const struct stage *stage, int64_t item)
{
    const struct entry *e = &step->entries[stage->entry];
    double sum = step->phase == SUM_SQUARES ? NAME(measure_squares)(step, e, &stage->pieces, item)
                                            : NAME(measure_updates)(step, e, &stage->pieces, item);
    void *total = NAME(sum_of_pass)(step, e);
    if (stage->count > 1)
        NAME(sums_of_pieces)(step)[item] = sum;
    else if (total)
        set_sum(e, total, 0, sum);
}

/* Adds up the pieces of this pass, and what a batch of large matrices has summed before. */
static void NAME(run_total)(struct step *step, const struct stage *stage)
{
    const struct entry *e = &step->entries[stage->entry];
    void *total = NAME(sum_of_pass)(step, e);
    double sum = stage->matrix > 0 ? step->merged[0].squares_of_u : 0;
    for (int64_t piece = 0; piece < stage->pieces.down * stage->pieces.across; piece++)
        sum += NAME(sums_of_pieces)(step)[piece];
    if (total)
        set_sum(e, total, 0, sum);
}

/* The end of the first pass over a large matrix. */
static void NAME(run_merge_of_shard)(struct step *step, const struct stage *stage)
{
    const struct entry *e = &step->entries[stage->entry];
    struct merged *merged = &step->merged[0];
    NAME(merge_sums)(step, stage);
    NAME(sum_means)(e, stage->matrix);
    if (stage->matrix == 0)
        merged->squares_of_p = 0;
    for (int64_t strip = 0; e->parameter_sum && strip < stage->strips.down * stage->strips.across; strip++)
        merged->squares_of_p += step->scratch->squares_of_p[0][strip];
    if (e->parameter_sum)
        set_sum(e, e->parameter_sum, 0, merged->squares_of_p);
}

/* The factors of a large matrix, after R and C are updated. */
static void NAME(find_factors)(struct step *step, const struct stage *stage)
{
    const struct entry *e = &step->entries[stage->entry];
    struct merged *merged = &step->merged[0];
    merged->mean = NAME(mean_of)(e, stage->matrix);
    merged->finite = 0; /* rows of zeros are not known any more */
    if (NAME(keeps_factors)(e))
        NAME(keep_factors)(e, step->scratch, stage->matrix);
}

/* The beginning of the second pass over a large matrix; the sum over the matrix before is complete. */
static void NAME(run_fold)(struct step *step, const struct stage *stage)
{
    const struct entry *e = &step->entries[stage->entry];
    struct merged *merged = &step->merged[0];
    if (stage->matrix == 0)
        merged->squares_of_u = 0;
    for (int64_t piece = 0; stage->matrix && piece < stage->pieces.down * stage->pieces.across; piece++)
        merged->squares_of_u += step->scratch->squares_of_u[0][piece];
    NAME(fold_sums)(e, stage->matrix);
    NAME(find_factors)(step, stage);
}

/* The scalars of the third pass, from the sums of all processes; records RMS(p). */
static void NAME(find_scale_of_shard)(const struct entry *e, struct stage *stage, int64_t item)
{
    double squares_of_p = e->parameter_sum ? sum_at(e, e->parameter_sum, 0) : 0;
    find_scale(e, stage, squares_of_p, sum_at(e, e->update_sum, 0));
    if (item == 0)
        NAME(write_rms)(e, squares_of_p);
}

static void NAME(run_shard)(struct step *step, struct stage *stage, int64_t item)
{
    const struct entry *e = &step->entries[stage->entry];
    switch (stage->kind) {
    case MEASURE:
        NAME(run_measure_of_shard)(step, stage, item);
        break;
    case TOTAL:
        NAME(run_total)(step, stage);
        break;
    case SQUARES:
        NAME(run_squares)(step, stage, item);
        break;
    case MERGE:
        NAME(run_merge_of_shard)(step, stage);
        break;
    case FOLD_SUMS:
        NAME(run_fold)(step, stage);
        break;
    case UPDATES:
        NAME(run_updates)(step, stage, item);
        break;
    case FACTORS:
        NAME(find_factors)(step, stage);
        break;
    case APPLY:
        NAME(find_scale_of_shard)(e, stage, item);
        NAME(run_apply)(step, stage, item);
        break;
    case FINISH:
        NAME(find_scale_of_shard)(e, stage, item);
        NAME(finish)(step, e, stage, item);
        break;
    default:
        break;
    }
}
