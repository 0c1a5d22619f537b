/* Runs a built model over frames that it reads, and writes what comes out. MODEL_H and the macros of `calls.h`, which the
 * tests write, say which model. Files: in_<i> all frames of an input, out_<i> the rows of an output, and
 * result: the status, the rows of each output, the ticks of the frames that went through step. */
#include <string.h>
#include "calls.h"

#ifdef BARE
/* Semihosting: Arm's document "Semihosting for AArch32 and AArch64", operations OPEN, CLOSE, WRITE, READ, EXIT_EXTENDED. */
static int host(int operation, const void *block) {
  register int r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = block;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}
static int transfer(const char *name, void *data, unsigned size, int writes) {
  const void *opening[3] = {name, (void *)(writes ? 5 : 1), (void *)strlen(name)};
  int file = host(1, opening);
  const void *moving[3] = {(void *)file, data, (void *)size};
  int left = file < 0 ? 1 : size ? host(writes ? 5 : 6, moving) : 0;
  host(2, &file);
  return left;
}
static void leave(int status) {
  int block[2] = {0x20026, status};
  host(0x20, block);
  for (;;) {}
}
#define SYSTICK ((volatile unsigned *)0xE000E010)
static void start_ticks(void) { SYSTICK[1] = 0xFFFFFF; SYSTICK[2] = 0; SYSTICK[0] = 5; }
static unsigned ticks(void) { return SYSTICK[2]; }
#define ELAPSED(before, after) (((before) - (after)) & 0xFFFFFF)
#define BIG __attribute__((section(".big"), aligned(64)))
int main(void);
extern unsigned stack_top, data_start, data_end, data_load, bss_start, bss_end;
void enter(void) {
  *(volatile unsigned *)0xE000ED88 |= 0xF << 20; /* the floating-point unit on */
  __asm__ volatile("dsb\nisb");
  memcpy(&data_start, &data_load, (char *)&data_end - (char *)&data_start);
  memset(&bss_start, 0, (char *)&bss_end - (char *)&bss_start);
  leave(main());
}
__attribute__((section(".vectors"), used)) void *const vectors[16] = {&stack_top, (void *)enter, (void *)leave, (void *)leave,
                                                                    (void *)leave, (void *)leave, (void *)leave};
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

BUFFERS
MEMORY
#ifdef WEIGHTS
static unsigned char BIG file_of_weights[WEIGHTS];
#endif

int main(void) {
  static long result[2 + OUTPUTS];
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
  result[0] = status;
  WRITE
  return transfer("result", result, sizeof result, 1);
}
