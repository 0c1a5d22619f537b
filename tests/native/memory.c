/* 10,000 frames, by step and by run, with every array in a block of its own: for valgrind and AddressSanitizer. */
#include <stdlib.h>
#include <string.h>
#include "name.h"

int main(void) {
  float *state = aligned_alloc(64, (NAME_STATE_BYTES + 63) / 64 * 64);
  void *arena = aligned_alloc(64, (NAME_ARENA_BYTES + 63) / 64 * 64);
  float *x = malloc(7 * NAME_INPUT_SIZE * sizeof *x), *y = malloc(7 * NAME_OUTPUT_SIZE * sizeof *y);
  float first[NAME_OUTPUT_SIZE];
  name_stream stream;
  int status = name_init(&stream, state, arena) || name_selftest(&stream);
  for (int i = 0; i < 7 * NAME_INPUT_SIZE; i++) x[i] = (float)(i % 17) / 8 - 1;
  float *one = malloc(NAME_INPUT_SIZE * sizeof *x), *row = malloc(NAME_OUTPUT_SIZE * sizeof *y);
  memcpy(one, x, NAME_INPUT_SIZE * sizeof *x);
  for (int frame = 0; frame < 10000; frame += 8) {
    status |= name_step(&stream, one, row);
    status |= name_run(&stream, 7, x, y);
    if (frame == 0) memcpy(first, row, sizeof first);
  }
  name_reset(&stream);
  status |= name_step(&stream, one, row) || memcmp(first, row, sizeof first);
  free(state), free(arena), free(x), free(y), free(one), free(row);
  return status;
}
