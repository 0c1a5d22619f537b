/* Files, ticks and memory, on a system or without one. */
#if defined(BOARD)
#include "board.h"
#elif defined(PC)
#include "pc.h"
#else
#include <stdio.h>
static int transfer(const char *name, void *data, unsigned long size, int writes) {
  FILE *file = fopen(name, writes ? "wb" : "rb");
  if (!file) return 1;
  unsigned long done = writes ? fwrite(data, 1, size, file) : fread(data, 1, size, file);
  fclose(file);
  return done != size;
}
static void start_ticks(void) {}
static unsigned ticks(void) { return 0; }
#define ELAPSED(before, after) ((before) - (after))
#define BIG __attribute__((aligned(64)))
#endif
