// Workgroups: set up as the hardware does, run wave by wave to the next barrier, until all have ended.
#include "wave.h"

void *aligned_alloc(size_t, size_t);
void *calloc(size_t, size_t);
void free(void *);

extern const Entry valu_table[], masks_table[], salu_table[], memory_table[], lds_table[], cross_lane_table[], matrix_table[];
static const Entry *const tables[] = {valu_table, masks_table, salu_table, memory_table, lds_table, cross_lane_table, matrix_table};
enum { NUM_TABLES = sizeof tables / sizeof *tables, SLICE = 4096 };

typedef struct {
  Totals totals;
  Traffic *traffic;  // [slots][2]
  u64 *hits;         // [num_ops]
  Fault fault;
} Worker;

__attribute__((visibility("default"))) const Entry *emulator_entry(u32 index) {
  for (u32 t = 0; t < NUM_TABLES; t++)
    for (const Entry *e = tables[t]; e->name; e++)
      if (index-- == 0) return e;
  return 0;
}

__attribute__((visibility("default"))) void emulator_sizes(u32 *out) {
  u32 sizes[] = {sizeof(Op), sizeof(Operand), sizeof(Launch), sizeof(Worker), sizeof(Allocation), sizeof(Traffic), W};
  memcpy(out, sizes, sizeof sizes);
}

__attribute__((visibility("default"))) void emulator_link(Op *ops, u32 n) {
  for (u32 i = 0; i < n; i++) ops[i].run = emulator_entry((u32)ops[i].handler)->run;
}

static void start_wave(Wave *w, const Launch *launch, const Group *g, u32 index) {
  const u32 *group = g->id, *size = g->size;
  u32 items = size[0] * size[1] * size[2], n = 0, first = index * W;
  // What the hardware leaves undefined is made conspicuous: a NaN in every register that is not set up.
  for (u32 r = 0; r < launch->num_vgprs; r++)
    for (u32 l = 0; l < W; l++) w->v[r][l] = 0x7fa0dead;
  for (u32 r = 0; r < NUM_SCALARS; r++) w->s[r] = 0xdead5a5a;
  for (; n < launch->num_user_sgprs; n++) w->s[n] = launch->user_sgprs[n];
  for (u32 d = 0; d < 3; d++)
    if (launch->enable_group_id[d] && !launch->architected_ids) w->s[n++] = group[d];
  if (launch->enable_group_info) w->s[n++] = 0;
  if (launch->architected_ids) {
    w->s[108 + 9] = group[0];
    w->s[108 + 7] = group[1] | group[2] << 16;
  }
  for (u32 l = 0; l < W; l++) {
    u32 id = first + l, x = id % size[0], y = id / size[0] % size[1], z = id / (size[0] * size[1]);
    // All share a register; a kernel that does not ask for y or z finds zero there, and may do without a mask.
    w->v[0][l] = x | (launch->num_id_dims > 0 ? y << 10 : 0) | (launch->num_id_dims > 1 ? z << 20 : 0);
  }
  u32 lanes = items - first < W ? items - first : W;
  u64 exec = lanes == 64 ? ~0ull : (1ull << lanes) - 1;
  w->s[S_EXEC] = (u32)exec;
  w->s[S_EXEC + 1] = (u32)(exec >> 32);
  w->s[S_VCC] = w->s[S_VCC + 1] = 0;
  exec_changed(w);
  w->scc = 0;
  w->pc = launch->ops + launch->entry;
  w->state = RUNNING;
  w->signaled = 0;
  w->index = index;
  w->executed = 0;
  w->last = 0;
  if (launch->scratch_bytes) memset(w->scratch, 0xcd, (size_t)launch->scratch_bytes * W);
}

static int run_slice(Wave *w) {
  const Op *ops = w->launch->ops, *o;
  u64 *hits = w->hits, n = 0;
  int result;
  w->budget = SLICE;
  do {
    o = w->pc++;
    hits[o - ops]++;
    n++;
    result = o->run(w, o);
  } while (!result);
  w->executed += n;
  if (result == YIELD && w->executed > w->launch->max_ops) return fail(w, o, FAULT_HANG, 0, w->executed, 0, 0);
  return result;
}

static void release_barrier(Group *g) {
  if (!g->barrier_arrived || g->barrier_arrived < g->num_live) return;
  g->barrier_phase++;
  g->barrier_arrived = 0;
  g->epoch++;
}

static int run_group(Wave *waves, u32 num_waves, Group *g) {
  while (g->num_live) {
    int progress = 0;
    for (u32 i = 0; i < num_waves; i++) {
      Wave *w = &waves[i];
      if (w->state == WAITING && w->signaled && w->wait_phase != g->barrier_phase) {
        w->state = RUNNING;
        w->signaled = 0;
        w->totals->barriers++;
      }
      if (w->state != RUNNING) continue;
      progress = 1;
      if (run_slice(w) == FAULTED) return FAULTED;
      if (w->state == ENDED) g->num_live--;
      release_barrier(g);
    }
    if (!progress && g->num_live) {
      u32 i = 0;
      while (waves[i].state != WAITING) i++;
      return fail(&waves[i], waves[i].pc - 1, FAULT_DEADLOCK, 0, 0, 0, 0);
    }
  }
  return 0;
}

// Run workgroups until none is left or one faulted. Several threads may call this for one launch, each with its worker.
__attribute__((visibility("default"))) int emulator_run(const Launch *launch, Worker *worker) {
  u32 items = launch->block[0] * launch->block[1] * launch->block[2], most_waves = (items + W - 1) / W, num_waves;
  u32 words = (launch->lds_bytes + 3) / 4, total = launch->grid[0] * launch->grid[1] * launch->grid[2];
  size_t scratch = (size_t)launch->scratch_bytes * W;
  Wave *waves = aligned_alloc(128, most_waves * sizeof *waves);
  u8 *lds = calloc(words + 1, 4), *valid = calloc(words + 1, 1), *scratches = calloc(most_waves, scratch + 1);
  Shadow *shadow = calloc(words + 1, sizeof *shadow);
  int result = waves && lds && valid && shadow && scratches ? 0 : -1;
  Group g = {.lds = lds, .lds_valid = valid, .shadow = shadow, .epoch = 1};
  while (!result && !*launch->stop) {
    u32 n = __atomic_fetch_add(launch->next_group, 1, __ATOMIC_RELAXED);
    if (n >= total) break;
    g.id[0] = n % launch->grid[0];
    g.id[1] = n / launch->grid[0] % launch->grid[1];
    g.id[2] = n / launch->grid[0] / launch->grid[1];
    for (u32 d = 0; d < 3; d++) {
      u32 left = launch->items[d] - g.id[d] * launch->block[d];
      g.size[d] = left < launch->block[d] ? left : launch->block[d];
    }
    num_waves = (g.size[0] * g.size[1] * g.size[2] + W - 1) / W;
    memset(lds, 0xcd, (size_t)words * 4);
    memset(valid, 0, words);
    g.epoch++;
    g.barrier_phase = g.barrier_arrived = 0;
    g.num_live = num_waves;
    for (u32 i = 0; i < num_waves; i++) {
      Wave *w = &waves[i];
      w->group = &g;
      w->launch = launch;
      w->totals = &worker->totals;
      w->traffic = worker->traffic;
      w->hits = worker->hits;
      w->fault = &worker->fault;
      w->scratch = scratches + i * scratch;
      start_wave(w, launch, &g, i);
    }
    worker->totals.waves += num_waves;
    result = run_group(waves, num_waves, &g);
  }
  if (result) *launch->stop = 1;
  free(waves);
  free(lds);
  free(valid);
  free(shadow);
  free(scratches);
  return result;
}
