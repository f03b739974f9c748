/* Takes a step: all threads walk through the same stages, claim items of work in their order and wait, where a stage
 * needs what others compute, until that is complete. Every item depends on items before it only, so one thread alone
 * completes the step too, and no thread waits for one that has not begun. */

#include <math.h>
#include <sched.h>

#include "schedule.h"

enum {
    MOST_THREADS = 256,
    SPINS = 2000 /* checks of another thread's progress before yielding the core */
};

/* What a thread is working on: an item, or a lower bound of the one that it is about to claim. */
struct progress {
    _Alignas(64) _Atomic int64_t item;
};

struct team {
    struct step step;
    _Alignas(64) _Atomic int64_t next;  /* the first item that nobody has claimed */
    _Alignas(64) _Atomic int64_t joined;
    struct progress progress[MOST_THREADS];
};

static int64_t at_least_one(int64_t x)
{
    return x < 1 ? 1 : x;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t divided(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static struct grid split(int64_t rows, int64_t columns, int64_t down, int64_t rows_multiple, int64_t across,
                       int64_t columns_multiple)
{
    struct grid grid;
    grid.rows = divided(divided(rows, down), rows_multiple) * rows_multiple;
    grid.columns = divided(divided(columns, across), columns_multiple) * columns_multiple;
    grid.down = divided(rows, grid.rows);
    grid.across = divided(columns, grid.columns);
    return grid;
}

/* Strips of rows whose column sums fit into the slots; ranges of columns where that makes too few strips. */
static struct grid strips_of(int64_t rows, int64_t columns)
{
    int64_t down = smaller(divided(rows * columns, STRIP_ELEMENTS), MOST_STRIPS);
    down = at_least_one(smaller(down, smaller(SLOT_SUMS / columns, rows / 8)));
    int64_t across = 1;
    if (down < MOST_STRIPS / 4 && columns > 2 * SPAN)
        across = at_least_one(smaller(divided(columns, 2 * SPAN), smaller(ROW_SUMS / rows, MOST_PIECES / down)));
    /* eight rows share a byte of the bits that mark rows of zeros */
    return split(rows, columns, down, 8, across, SPAN);
}

static struct grid pieces_of(int64_t rows, int64_t columns)
{
    int64_t across = smaller(divided(columns, 4 * SPAN), MOST_PIECES);
    int64_t down = smaller(divided(rows * divided(columns, across), PIECE_ELEMENTS), MOST_PIECES / across);
    return split(rows, columns, at_least_one(smaller(down, rows)), 1, across, SPAN);
}

static void begin(struct stage *stage, enum kind kind, int64_t count, int64_t depends)
{
    stage->kind = kind;
    stage->count = count;
    stage->depends = depends;
    stage->scaled = 0;
}

/* How a tensor is divided; returns the number of parts of a vector or of a batch of small matrices, 0 for large ones. */
static int64_t divide_entry(const struct step *step, struct stage *stage)
{
    const struct entry *e = &step->entries[stage->entry];
    int64_t matrices = matrices_of(e), matrix = e->rows * e->columns;
    int factored = (e->flags & FACTORED) != 0;
    stage->matrix = 0;
    if (factored && matrix > WHOLE_ELEMENTS) {
        stage->strips = strips_of(e->rows, e->columns);
        stage->pieces = pieces_of(e->rows, e->columns);
        return 0;
    }
    int64_t parts = smaller(divided(matrices * matrix, WHOLE_ELEMENTS), MOST_PIECES);
    if (factored) {
        stage->pieces.rows = divided(matrices, parts);
        stage->pieces.down = divided(matrices, stage->pieces.rows);
        stage->pieces.across = 1;
    } else {
        stage->pieces = split(1, e->columns, 1, 1, parts, 512);
    }
    return stage->pieces.down * stage->pieces.across;
}

/* The first stage of a tensor; it may begin while the last one of the tensor before is still running. */
static void begin_entry(const struct step *step, struct stage *stage)
{
    int64_t parts = divide_entry(step, stage);
    if (parts == 0) {
        stage->set = !stage->set;
        begin(stage, SQUARES, stage->strips.down * stage->strips.across, stage->barrier);
    } else if (parts == 1) {
        begin(stage, WHOLE, 1, 0);
    } else {
        stage->set = !stage->set;
        begin(stage, MEASURE, parts, stage->barrier);
    }
}

/* Moves on to the next stage; returns 0 after the last one. */
static int next_stage(const struct step *step, struct stage *stage)
{
    stage->first += stage->count;
    if (stage->entry >= 0) {
        int64_t matrices = matrices_of(&step->entries[stage->entry]);
        int64_t pieces = stage->pieces.down * stage->pieces.across;
        switch (stage->kind) {
        case MEASURE:
            begin(stage, FINISH, stage->count, stage->first);
            stage->barrier = stage->first;
            return 1;
        case SQUARES:
            begin(stage, MERGE, 1, stage->first);
            return 1;
        case MERGE:
            begin(stage, UPDATES, pieces, stage->first);
            return 1;
        case UPDATES:
            if (stage->matrix + 1 < matrices) {
                stage->matrix++;
                /* its column sums may be computed while the second pass over the previous matrix is running */
                begin(stage, SQUARES, stage->strips.down * stage->strips.across, stage->first - stage->count);
                return 1;
            }
            begin(stage, APPLY, pieces, stage->first);
            stage->barrier = stage->first;
            return 1;
        case APPLY:
            if (stage->matrix > 0) {
                stage->matrix--;
                begin(stage, FACTORS, 1, stage->first);
                return 1;
            }
            break;
        case FACTORS:
            begin(stage, APPLY, pieces, stage->first);
            stage->barrier = stage->first;
            return 1;
        default:
            break;
        }
    }
    while (++stage->entry < step->count) {
        const struct entry *e = &step->entries[stage->entry];
        if (matrices_of(e) * e->rows * e->columns > 0) {
            begin_entry(step, stage);
            return 1;
        }
    }
    return 0;
}

/* The same for shards and the pass that this call makes. Stages that use scratch memory wait for all before them. */
static void begin_shard(const struct step *step, struct stage *stage)
{
    int64_t parts = divide_entry(step, stage);
    if (parts > 0)
        begin(stage, step->phase == APPLY_UPDATES ? FINISH : MEASURE, parts, parts > 1 ? stage->first : 0);
    else if (step->phase == SUM_SQUARES)
        begin(stage, SQUARES, stage->strips.down * stage->strips.across, stage->first);
    else
        begin(stage, step->phase == SUM_UPDATES ? FOLD_SUMS : FACTORS, 1, stage->first);
}

static int next_stage_of_shards(const struct step *step, struct stage *stage)
{
    stage->first += stage->count;
    if (stage->entry >= 0) {
        int more = stage->matrix + 1 < matrices_of(&step->entries[stage->entry]);
        int64_t pieces = stage->pieces.down * stage->pieces.across;
        switch (stage->kind) {
        case MEASURE:
            if (stage->count > 1) {
                begin(stage, TOTAL, 1, stage->first);
                return 1;
            }
            break;
        case SQUARES:
            begin(stage, MERGE, 1, stage->first);
            return 1;
        case MERGE:
            if (more) {
                stage->matrix++;
                begin(stage, SQUARES, stage->strips.down * stage->strips.across, stage->first);
                return 1;
            }
            break;
        case FOLD_SUMS:
            begin(stage, UPDATES, pieces, stage->first);
            return 1;
        case UPDATES:
            stage->matrix += more;
            begin(stage, more ? FOLD_SUMS : TOTAL, 1, stage->first);
            return 1;
        case FACTORS:
            begin(stage, APPLY, pieces, stage->first);
            return 1;
        case APPLY:
            if (more) {
                stage->matrix++;
                begin(stage, FACTORS, 1, stage->first);
                return 1;
            }
            break;
        default:
            break;
        }
    }
    while (++stage->entry < step->count) {
        const struct entry *e = &step->entries[stage->entry];
        if (matrices_of(e) * e->rows * e->columns > 0) {
            begin_shard(step, stage);
            return 1;
        }
    }
    return 0;
}

static void wait_until_complete(struct team *team, int64_t below)
{
    int64_t threads = smaller(atomic_load(&team->joined), MOST_THREADS);
    for (int64_t thread = 0; thread < threads; thread++)
        for (int spins = 0; atomic_load(&team->progress[thread].item) < below; spins++) {
#if defined(__x86_64__) || defined(__i386__)
            __builtin_ia32_pause();
#endif
            if (spins >= SPINS)
                sched_yield();
        }
}

/* What each thread of the team runs; the range that torch passes is ignored. */
static void work(int64_t from, int64_t to, void *context)
{
    (void)from;
    (void)to;
    struct team *team = context;
    struct step *step = &team->step;
    int64_t number = atomic_fetch_add(&team->joined, 1);
    if (number >= MOST_THREADS)
        return;
    struct progress *own = &team->progress[number];
    struct stage stage = {.entry = -1, .set = 0};
    int (*next)(const struct step *, struct stage *) = step->phase == ALL_PASSES ? next_stage : next_stage_of_shards;
    int more = next(step, &stage);
    while (more) {
        atomic_store(&own->item, atomic_load(&team->next));
        int64_t item = atomic_fetch_add(&team->next, 1);
        atomic_store(&own->item, item);
        while (more && item >= stage.first + stage.count)
            more = next(step, &stage);
        if (more) {
            wait_until_complete(team, stage.depends);
            step->run(step, &stage, item - stage.first);
        }
    }
    atomic_store(&own->item, INT64_MAX);
}

/* Counts the step. */
static void count_step(struct entry *e)
{
    if (e->step_dtype == FLOAT64)
        *(double *)e->step += 1;
    else
        *(float *)e->step += 1;
}

/* The scalars that follow from t, the number of the last step, as in rule.py. */
static void find_scalars(struct entry *e, double t)
{
    e->t = t;
    e->omega = pow(e->t, e->beta2_decay);
    e->rho = e->lr;
    if (e->flags & RELATIVE_STEP) {
        double bound = pow(e->t, -0.5), warmup = 1e-6 * e->t;
        e->rho = bound < e->rho ? bound : e->rho;
        if (e->flags & WARMUP_INIT)
            e->rho = warmup < e->rho ? warmup : e->rho;
    }
}

#define EXPORTED __attribute__((visibility("default")))

/* The instruction sets that this machine has and this library was compiled for, from 0 (baseline) on. */
EXPORTED int64_t adafactor_instruction_sets(void)
{
#ifdef SEVERAL_INSTRUCTION_SETS
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2"))
        return 1;
    int all = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return all ? 3 : 2;
#else
    return 1;
#endif
}

/* A digest of the sources that this library was made from. */
EXPORTED const char *adafactor_digest(void)
{
    return DIGEST;
}

EXPORTED int64_t adafactor_scratch_bytes(void)
{
    return sizeof(struct scratch);
}

EXPORTED int64_t adafactor_entry_bytes(void)
{
    return sizeof(struct entry);
}

static void work_alone(void *context)
{
    work(0, 1, context);
}

/* torch::stable::parallel_for in C (torch 2.10 and later), and what OpenMP's parallel regions call in GNU's runtime. */
typedef int32_t (*torch_parallel_for)(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void *), void *);
typedef void (*gomp_parallel)(void (*)(void *), void *, unsigned, unsigned);

/* Takes a step for all entries, or makes one pass over shards. `threads` are asked for through one of the two functions, where one is given. */
EXPORTED void adafactor_step(struct entry *entries, int64_t count, int64_t phase, double unscale,
                    struct scratch *scratch, int64_t instruction_set, int64_t threads, torch_parallel_for for_torch, gomp_parallel for_gomp)
{
    struct team team = {.step = {.entries = entries, .count = count, .phase = phase, .unscale = unscale, .scratch = scratch}};
    team.step.run = run_baseline;
#ifdef SEVERAL_INSTRUCTION_SETS
    if (instruction_set == 1)
        team.step.run = run_avx2;
    if (instruction_set == 2)
        team.step.run = run_avx512;
#else
    (void)instruction_set;
#endif
    int64_t elements = 0;
    for (int64_t i = 0; i < count; i++) {
        struct entry *e = &entries[i];
        if (phase == ALL_PASSES || phase == SUM_UPDATES)
            count_step(e);
        find_scalars(e, (e->step_dtype == FLOAT64 ? *(double *)e->step : (double)*(float *)e->step) +
                            (phase == SUM_SQUARES));
        elements += matrices_of(&entries[i]) * entries[i].rows * entries[i].columns;
    }
    /* waking a thread takes as long as some thousand elements */
    threads = smaller(smaller(threads, MOST_THREADS), divided(elements, 2 * WHOLE_ELEMENTS));
    if (threads > 1 && for_torch)
        for_torch(0, threads, 1, work, &team);
    else if (threads > 1 && for_gomp)
        for_gomp(work_alone, &team, (unsigned)threads, 0);
    if (atomic_load(&team.joined) == 0)
        work(0, 1, &team);
}
