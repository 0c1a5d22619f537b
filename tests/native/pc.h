/* A PC without an operating system: files are places on its disk (ATA, sectors by programmed input and output). DISK in
 * calls.h lists them: name, first sector. Of what is written, the first sector holds the size in bytes. */
void *memcpy(void *to, const void *from, unsigned long n) {
  void *start = to;
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
  return start;
}
void *memset(void *to, int value, unsigned long n) {
  void *start = to;
  __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
  return start;
}
static void out(unsigned short port, unsigned char value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static unsigned char in(unsigned short port) {
  unsigned char value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
static void sector(unsigned place, void *data, int writes) {
  unsigned long words = 256;
  out(0x1F6, 0xE0 | place >> 24), out(0x1F2, 1);
  out(0x1F3, place), out(0x1F4, place >> 8), out(0x1F5, place >> 16), out(0x1F7, writes ? 0x30 : 0x20);
  while ((in(0x1F7) & 0x88) != 8) {}
  if (writes) __asm__ volatile("rep outsw" : "+S"(data), "+c"(words) : "d"(0x1F0) : "memory");
  else __asm__ volatile("rep insw" : "+D"(data), "+c"(words) : "d"(0x1F0) : "memory");
  while (in(0x1F7) & 0x80) {}
}
static const struct { const char *name; unsigned place; } disk[] = {DISK};
static int same(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}
static int transfer(const char *name, void *data, unsigned long size, int writes) {
  static unsigned char block[512];
  unsigned k = 0;
  while (k < sizeof disk / sizeof *disk && !same(disk[k].name, name)) k++;
  if (k == sizeof disk / sizeof *disk) return 1;
  unsigned place = disk[k].place;
  if (writes) {
    memcpy(block, &size, sizeof size);
    sector(place++, block, 1);
  }
  for (unsigned long done = 0; done < size; done += 512) {
    unsigned long n = size - done < 512 ? size - done : 512;
    if (writes) memcpy(block, (char *)data + done, n);
    sector(place++, block, writes);
    if (!writes) memcpy((char *)data + done, block, n);
  }
  return 0;
}
static void start_ticks(void) {}
static unsigned ticks(void) { return 0; }
#define ELAPSED(before, after) ((before) - (after))
#define BIG __attribute__((aligned(64)))
int main(void);
extern char bss_start, bss_end;
__attribute__((section(".enter"), used)) void enter(void) {
  memset(&bss_start, 0, &bss_end - &bss_start);
  long status = main();
  transfer("status", &status, sizeof status, 1);
  for (const char *c = "Shutdown"; *c; c++) out(0x8900, *c); /* the emulator ends */
  for (;;) {}
}
