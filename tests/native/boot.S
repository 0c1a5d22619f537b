/* The first sector of a disk: enters 64-bit mode with every vector register on, reads the SECTORS sectors behind it to 1 MB and
 * goes there. Page tables lie at 0x1000; the first gigabyte of addresses is that of memory. */
.code16
.globl start
start:
  cli
  cld
  xorl %eax, %eax
  movw %ax, %ds
  movw %ax, %es
  movw $0x1000, %di
  movw $0x1000, %cx
  rep stosw
  inb $0x92, %al
  orb $2, %al
  outb %al, $0x92 /* address line 20 */
  movl $0x2003, 0x1000
  movl $0x83, 0x2000
  movl $0x1000, %eax
  movl %eax, %cr3
  movl $0x40620, %eax /* PAE, OSFXSR, OSXMMEXCPT, OSXSAVE */
  movl %eax, %cr4
  movl $0xC0000080, %ecx /* EFER */
  xorl %edx, %edx
  movl $0x100, %eax
  wrmsr
  movl $0x80000013, %eax /* paging, floating point, protection */
  movl %eax, %cr0
  lgdt table
  ljmp $8, $long
.code64
long:
  xorl %ecx, %ecx
  xorl %edx, %edx
  movl $0xE7, %eax /* the state of x87, SSE, AVX and AVX-512 */
  xsetbv
  movl $0x4000000, %esp
  movl $0x100000, %edi
  movl $1, %ebx
next:
  movw $0x1F6, %dx
  movb $0xE0, %al
  outb %al, %dx
  movw $0x1F2, %dx
  movb $1, %al
  outb %al, %dx
  movl %ebx, %eax
  incw %dx
  outb %al, %dx
  shrl $8, %eax
  incw %dx
  outb %al, %dx
  shrl $8, %eax
  incw %dx
  outb %al, %dx
  movw $0x1F7, %dx
  movb $0x20, %al
  outb %al, %dx
wait:
  inb %dx, %al
  andb $0x88, %al
  cmpb $8, %al
  jne wait
  movw $0x1F0, %dx
  movl $256, %ecx
  rep insw
  incl %ebx
  cmpl $(SECTORS + 1), %ebx
  jb next
  movl $0x100000, %eax
  call *%rax
.balign 8
entries:
  .quad 0
  .quad 0x00209A0000000000 /* code of 64 bits */
table:
  .word 15
  .long entries
.org 510
.word 0xAA55
