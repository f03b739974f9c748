/* Items of work: what a thread does for one number of a stage. Included once for each REAL. */

static void NAME(write_rms)(const struct entry *e, double squares_of_p)
{
    if (e->rms && e->flags & SCALE_PARAMETER)
        *(REAL *)e->rms = (REAL)sqrt(squares_of_p / e->numel);
}

/* The part of a matrix that a grid's piece is. */
static struct tile NAME(tile_of)(const struct entry *e, int64_t matrix, const struct grid *grid, int64_t piece)
{
    int64_t row = piece / grid->across * grid->rows, column = piece % grid->across * grid->columns;
    int64_t rows = e->rows - row < grid->rows ? e->rows - row : grid->rows;
    int64_t columns = e->columns - column < grid->columns ? e->columns - column : grid->columns;
    return (struct tile){matrix, row, rows, column, columns};
}

/* Whether the factors of all columns are kept. */
static int NAME(keeps_factors)(const struct entry *e)
{
    return e->columns * (int64_t)sizeof(REAL) <= (int64_t)(COLUMN_FACTORS * sizeof(double));
}

static uint8_t *NAME(zero_rows)(struct scratch *scratch, const struct entry *e, const struct stage *stage)
{
    int kept = !is_shard(e) && NAME(keeps_factors)(e) && stage->strips.across == 1 && matrices_of(e) == 1 && e->rows <= ZERO_ROWS;
    return kept ? scratch->zero_rows[stage->set] : NULL;
}

static void NAME(run_squares)(struct step *step, const struct stage *stage, int64_t item)
{
    const struct entry *e = &step->entries[stage->entry];
    struct scratch *scratch = step->scratch;
    const struct grid *strips = &stage->strips;
    struct tile tile = NAME(tile_of)(e, stage->matrix, strips, item);
    double *slot = strips->down > 1 ? scratch->slots + item / strips->across * e->columns : NULL;
    double *row_sums = strips->across > 1 ? scratch->row_sums + item % strips->across : NULL;
    NAME(squares)(e, &tile, (REAL)step->unscale, slot, row_sums, strips->across, NAME(zero_rows)(scratch, e, stage));
    if (e->flags & SCALE_PARAMETER)
        scratch->squares_of_p[stage->set][item] = NAME(squares_of_p)(e, &tile);
}

/* Computes the factors of all columns; returns whether all C are finite. */
static int NAME(keep_factors)(const struct entry *e, struct scratch *scratch, int64_t matrix)
{
    const REAL *C = (const REAL *)e->col_var + matrix * e->columns;
    NAME(column_factors)(C, e->columns, (REAL)e->variance_floor, (REAL *)scratch->column_factors);
    int finite = 1;
    for (int64_t j = 0; j < e->columns; j++)
        finite &= C[j] < (REAL)INFINITY;
    return finite;
}

/* Adds up the sums of strips and of ranges of columns, and keeps them in C and R, or, of a shard, where it keeps its sums. */
static OUT_OF_LINE void NAME(merge_sums)(struct step *step, const struct stage *stage)
{
    const struct entry *e = &step->entries[stage->entry];
    struct scratch *scratch = step->scratch;
    const struct grid *strips = &stage->strips;
    REAL *C = (REAL *)e->col_var + stage->matrix * e->columns;
    double sums[CHUNK];
    for (int64_t start = 0; strips->down > 1 && start < e->columns; start += CHUNK) {
        int64_t count = e->columns - start < CHUNK ? e->columns - start : CHUNK;
        for (int64_t j = 0; j < count; j++)
            sums[j] = scratch->slots[start + j];
        for (int64_t strip = 1; strip < strips->down; strip++)
            for (int64_t j = 0; j < count; j++)
                sums[j] += scratch->slots[strip * e->columns + start + j];
        for (int64_t j = 0; e->column_sums && j < count; j++)
            set_sum(e, e->column_sums, stage->matrix * e->columns + start + j, sums[j]);
        for (int64_t j = 0; !e->column_sums && j < count; j++)
            C[start + j] = NAME(averaged)(e, C[start + j], sums[j], e->rows);
    }
    for (int64_t i = 0; strips->across > 1 && i < e->rows; i++) {
        double sum = 0;
        for (int64_t range = 0; range < strips->across; range++)
            sum += scratch->row_sums[i * strips->across + range];
        NAME(keep_row)(e, stage->matrix * e->rows + i, sum, NULL, 1);
    }
}

static OUT_OF_LINE void NAME(run_merge)(struct step *step, const struct stage *stage)
{
    const struct entry *e = &step->entries[stage->entry];
    struct scratch *scratch = step->scratch;
    struct merged *merged = &step->merged[stage->set];
    const struct grid *strips = &stage->strips;
    NAME(merge_sums)(step, stage);
    if (stage->matrix == 0)
        merged->squares_of_p = merged->squares_of_u = 0;
    else
        for (int64_t piece = 0; piece < stage->pieces.down * stage->pieces.across; piece++)
            merged->squares_of_u += scratch->squares_of_u[stage->set][piece];
    if (e->flags & SCALE_PARAMETER)
        for (int64_t strip = 0; strip < strips->down * strips->across; strip++)
            merged->squares_of_p += scratch->squares_of_p[stage->set][strip];
    merged->mean = NAME(mean_of)(e, stage->matrix);
    merged->finite = NAME(keeps_factors)(e) && NAME(keep_factors)(e, scratch, stage->matrix) && isfinite(merged->mean);
}

static void NAME(run_factors)(struct step *step, const struct stage *stage)
{
    const struct entry *e = &step->entries[stage->entry];
    step->merged[stage->set].mean = NAME(mean_of)(e, stage->matrix);
    if (NAME(keeps_factors)(e))
        NAME(keep_factors)(e, step->scratch, stage->matrix);
}

static struct NAME(factors) NAME(merged_factors)(const struct step *step, const struct stage *stage)
{
    const struct entry *e = &step->entries[stage->entry];
    const REAL *columns = NAME(keeps_factors)(e) ? (const REAL *)step->scratch->column_factors : NULL;
    return NAME(factors_of)(e, step->merged[stage->set].mean, columns);
}

/* Backwards, to begin with what the first pass left in the cache; the third pass runs forwards again. */
static void NAME(run_updates)(struct step *step, const struct stage *stage, int64_t item)
{
    const struct entry *e = &step->entries[stage->entry];
    int64_t piece = stage->count - 1 - item;
    struct tile tile = NAME(tile_of)(e, stage->matrix, &stage->pieces, piece);
    struct NAME(factors) f = NAME(merged_factors)(step, stage);
    const uint8_t *zeros =
        step->merged[stage->set].finite ? NAME(zero_rows)(step->scratch, e, stage) : NULL;
    step->scratch->squares_of_u[stage->set][piece] = NAME(updates)(e, &tile, (REAL)step->unscale, &f, zeros);
}

static void NAME(run_apply)(struct step *step, struct stage *stage, int64_t item)
{
    const struct entry *e = &step->entries[stage->entry];
    const struct merged *merged = &step->merged[stage->set];
    struct tile tile = NAME(tile_of)(e, stage->matrix, &stage->pieces, item);
    struct NAME(factors) f = NAME(merged_factors)(step, stage);
    if (!stage->scaled) { /* of shards it is known already */
        double squares_of_u = merged->squares_of_u;
        for (int64_t piece = 0; piece < stage->pieces.down * stage->pieces.across; piece++)
            squares_of_u += step->scratch->squares_of_u[stage->set][piece];
        find_scale(e, stage, merged->squares_of_p, squares_of_u);
    }
    if (item == 0 && stage->matrix == 0 && !is_shard(e))
        NAME(write_rms)(e, merged->squares_of_p);
    int stays = stage->decay == 1 && !e->exp_avg.data && merged->finite && isfinite(stage->scale);
    const uint8_t *zeros = stays ? NAME(zero_rows)(step->scratch, e, stage) : NULL;
    NAME(apply)(e, &tile, (REAL)step->unscale, &f, zeros, stage->scale, stage->decay);
}

/* The first two passes over a piece of a vector, or over a group of small matrices. */
static OUT_OF_LINE void NAME(measure)(const struct step *step, const struct entry *e, const struct grid *pieces, int64_t piece,
                          double *squares_of_p, double *squares_of_u)
{
    REAL unscale = (REAL)step->unscale;
    *squares_of_p = *squares_of_u = 0;
    if (!(e->flags & FACTORED)) {
        struct tile tile = NAME(tile_of)(e, 0, pieces, piece);
        if (e->flags & SCALE_PARAMETER)
            *squares_of_p = NAME(squares_of_p)(e, &tile);
        *squares_of_u = NAME(measure_vector)(e, tile.column, tile.column + tile.columns, unscale);
        return;
    }
    int64_t matrices = matrices_of(e), end = (piece + 1) * pieces->rows;
    for (int64_t matrix = piece * pieces->rows; matrix < end && matrix < matrices; matrix++) {
        struct tile tile = {matrix, 0, e->rows, 0, e->columns};
        if (e->flags & SCALE_PARAMETER)
            *squares_of_p += NAME(squares_of_p)(e, &tile);
        NAME(squares)(e, &tile, unscale, NULL, NULL, 1, NULL);
        struct NAME(factors) f = NAME(factors_of)(e, NAME(mean_of)(e, matrix), NULL);
        *squares_of_u += NAME(updates)(e, &tile, unscale, &f, NULL);
    }
}

/* The third pass over those. */
static OUT_OF_LINE void NAME(finish)(const struct step *step, const struct entry *e, const struct stage *stage, int64_t piece)
{
    REAL unscale = (REAL)step->unscale;
    if (!(e->flags & FACTORED)) {
        struct tile tile = NAME(tile_of)(e, 0, &stage->pieces, piece);
        NAME(apply_vector)(e, tile.column, tile.column + tile.columns, unscale, stage->scale, stage->decay);
        return;
    }
    int64_t matrices = matrices_of(e), end = (piece + 1) * stage->pieces.rows;
    for (int64_t matrix = piece * stage->pieces.rows; matrix < end && matrix < matrices; matrix++) {
        struct tile tile = {matrix, 0, e->rows, 0, e->columns};
        struct NAME(factors) f = NAME(factors_of)(e, NAME(mean_of)(e, matrix), NULL);
        NAME(apply)(e, &tile, unscale, &f, NULL, stage->scale, stage->decay);
    }
}

static void NAME(run_whole)(struct step *step, struct stage *stage)
{
    const struct entry *e = &step->entries[stage->entry];
    double squares_of_p, squares_of_u;
    NAME(measure)(step, e, &stage->pieces, 0, &squares_of_p, &squares_of_u);
    find_scale(e, stage, squares_of_p, squares_of_u);
    NAME(write_rms)(e, squares_of_p);
    NAME(finish)(step, e, stage, 0);
}

static void NAME(run_measure)(struct step *step, const struct stage *stage, int64_t item)
{
    const struct entry *e = &step->entries[stage->entry];
    int64_t piece = stage->count - 1 - item;
    NAME(measure)(step, e, &stage->pieces, piece, &step->scratch->squares_of_p[stage->set][piece],
                  &step->scratch->squares_of_u[stage->set][piece]);
}

static void NAME(run_finish)(struct step *step, struct stage *stage, int64_t item)
{
    const struct entry *e = &step->entries[stage->entry];
    if (!stage->scaled || item == 0) {
        double squares_of_p = 0, squares_of_u = 0;
        for (int64_t piece = 0; piece < stage->count; piece++) {
            squares_of_p += step->scratch->squares_of_p[stage->set][piece];
            squares_of_u += step->scratch->squares_of_u[stage->set][piece];
        }
        find_scale(e, stage, squares_of_p, squares_of_u);
        if (item == 0)
            NAME(write_rms)(e, squares_of_p);
    }
    NAME(finish)(step, e, stage, item);
}

static void NAME(run)(struct step *step, struct stage *stage, int64_t item)
{
    switch (stage->kind) {
    case WHOLE:
        NAME(run_whole)(step, stage);
        break;
    case MEASURE:
        NAME(run_measure)(step, stage, item);
        break;
    case FINISH:
        NAME(run_finish)(step, stage, item);
        break;
    case SQUARES:
        NAME(run_squares)(step, stage, item);
        break;
    case MERGE:
        NAME(run_merge)(step, stage);
        break;
    case UPDATES:
        NAME(run_updates)(step, stage, item);
        break;
    case FACTORS:
        NAME(run_factors)(step, stage);
        break;
    case APPLY:
        NAME(run_apply)(step, stage, item);
        break;
    default: /* those of shards */
        break;
    }
}
