/* Runs a built model over frames that it reads, and writes what comes out. MODEL_H and the macros of `calls.h`, which the
 * tests write, say which model. Files: in_<i> all frames of an input, out_<i> the rows of an output, and
 * result: the status, the rows of each output, the ticks of the frames that went through step, the stack that was used. */
#include <string.h>
#include "calls.h"
#include "platform.h"

BUFFERS
MEMORY
#ifdef WEIGHTS
static unsigned char BIG file_of_weights[WEIGHTS];
#endif

/* The stack below main, marked to see how far down the calls go. */
#define DEEPEST 16384
#define OWN 192 /* that the marking itself may take */
__attribute__((noinline)) static uintptr_t bottom(void) { return (uintptr_t)__builtin_frame_address(0); }
__attribute__((noinline)) static void mark(uintptr_t top) {
  for (volatile unsigned char *p = (void *)(top - DEEPEST); (uintptr_t)p < top - OWN; p++) *p = 0xA5;
}
__attribute__((noinline)) static long touched(uintptr_t top) {
  volatile unsigned char *p = (void *)(top - DEEPEST);
  while ((uintptr_t)p < top - OWN && *p == 0xA5) p++;
  return top - (uintptr_t)p;
}

int main(void) {
  static long result[3 + OUTPUTS];
  size_t rows[OUTPUTS];
  STREAM stream;
  int status = 0;
#ifdef WEIGHTS
  if (transfer("weights", file_of_weights, WEIGHTS, 0)) return 9;
  status = INIT(&stream, mine_state, mine_arena, file_of_weights, WEIGHTS);
#else
  status = INIT(&stream, mine_state, mine_arena);
#endif
  if (status) return 8;
  READ
  if (!status) status = SELFTEST(&stream);
  if (status) return 7;
  start_ticks();
  unsigned long frame = 0;
  uintptr_t top = bottom();
  mark(top);
  for (; !status && frame < STEPS; frame++) {
    unsigned before = ticks();
    STEP
    result[1 + OUTPUTS] += ELAPSED(before, ticks());
  }
  while (!status && frame < FRAMES) {
    unsigned long n = FRAMES - frame < CHUNK ? FRAMES - frame : CHUNK;
    RUN
    frame += n;
  }
  FLUSH
  result[2 + OUTPUTS] = touched(top);
  result[0] = status;
  WRITE
  return transfer("result", result, sizeof result, 1);
}
