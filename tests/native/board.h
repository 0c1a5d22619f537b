/* An Arm board without an operating system: files through the emulator, the timer, and what runs before main. */
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
