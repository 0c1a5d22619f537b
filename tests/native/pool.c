/* Steps the streams of a pool in the calls that `calls.h` lists, then makes calls that must be refused. Files: in_<i> the frames of
 * an input, call by call; out_<i> the results; states all states at the end; result: the status. */
#include <string.h>
#include "calls.h"
#include "platform.h"

static const size_t counts[] = COUNTS;
static const int64_t which[] = WHICH;
BUFFERS
MEMORY
#ifdef WEIGHTS
static unsigned char BIG file_of_weights[WEIGHTS];
#endif
static float before[sizeof mine_states / sizeof mine_states[0]];

static int refused(POOL *pool) {
  int64_t bad[STREAMS + 1];
  size_t m;
  for (m = 0; m <= STREAMS; m++) bad[m] = m;
  if (TRY(pool, bad, STREAMS + 1) != TOO_MANY || TRY(pool, bad, (size_t)-1) != TOO_MANY) return 11;
  bad[1] = 0;
  if (TRY(pool, bad, 2) != BAD_SLOT) return 12;
  for (m = 0; m < SLOTS && m < STREAMS; m++) bad[m] = SLOTS - 1 - m;
  bad[m - 1] = SLOTS - 1;
  if (TRY(pool, bad, m) != BAD_SLOT) return 13;
  bad[0] = SLOTS;
  if (TRY(pool, bad, 1) != BAD_SLOT) return 14;
  bad[0] = -1;
  if (TRY(pool, bad, 1) != BAD_SLOT || RESET(pool, SLOTS) != BAD_SLOT) return 15;
  for (m = 0; m < sizeof before; m++)
    if (((char *)before)[m] != ((char *)mine_states)[m]) return 16;
  return TRY(pool, bad, 0);
}

int main(void) {
  static long result;
  POOL pool;
#ifdef WEIGHTS
  if (transfer("weights", file_of_weights, WEIGHTS, 0)) return 9;
  if (INIT(&pool, mine_states + 1, SLOTS, mine_arena, file_of_weights, WEIGHTS) != BAD_MEMORY) return 10;
  result = INIT(&pool, mine_states, SLOTS, mine_arena, file_of_weights, WEIGHTS);
#else
  if (INIT(&pool, mine_states, 0, mine_arena) != BAD_MEMORY || INIT(&pool, 0, SLOTS, mine_arena) != BAD_MEMORY) return 10;
  result = INIT(&pool, mine_states, SLOTS, mine_arena);
#endif
  if (result) return 8;
  result = SELFTEST(&pool);
  if (result) return 7;
  READ
  size_t row = 0;
  for (size_t call = 0; !result && call < sizeof counts / sizeof counts[0]; call++) {
    STEP
    row += counts[call];
  }
  memcpy(before, mine_states, sizeof before);
  if (!result) result = refused(&pool);
  WRITE
  transfer("states", mine_states, sizeof mine_states, 1);
  return transfer("result", &result, sizeof result, 1);
}
