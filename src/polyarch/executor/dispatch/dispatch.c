/* The exec dispatcher: a few hundred instructions in front of QEMU's own first one.
 *
 * The kernel starts an emulator for every foreign program a step executes (binfmt_misc). This code is grafted
 * into a copy of the emulator as its entry point (graft.py). It decides, before the emulator exists, whether the
 * program has a native twin: the same program of the same version for this machine's processor. If so the twin
 * is executed in its place; else the emulator begins as if nothing had happened, with a processor model chosen
 * for it. Nothing is allocated, nothing is written, no library is used, and every doubt ends in emulation.
 *
 * What has a twin is said by symbolic links in TWINS, which only accelerated steps have:
 *   files/INO-SIZE-CTIME             -> KIND LETTER PATH, of the foreign file itself, so that a file that was replaced,
 *                                       edited or touched has none
 *   applets/INO-SIZE-CTIME/NAME      -> the same, for programs that are many by their name (busybox)
 * KIND is 's' (run PATH), 'g' or 'm' (run it through glibc's or musl's loader, LOADER, with LIBRARIES), and a
 * letter that no argument may contain, or '-'.
 */
#define TWINS "/dev/.polyarch/"
#define LOADER TWINS "loader"
#define LIBRARIES TWINS "libraries" /* a link whose text is the library path */

typedef unsigned long word;

enum { AT_NULL = 0, AT_EXECFD = 2, AT_FLAGS = 8, AT_SECURE = 23 };
enum { KEEPS_ARGV0 = 1, LONGEST = 4096, MOST_ARGUMENTS = 65536 };

/* Filled in by graft.py, which finds it by its first eight bytes. */
struct settings {
    char mark[8];
    long emulator;  /* the emulator's entry point, relative to this struct */
    char model[48]; /* the processor to emulate (-cpu), or empty */
};
__attribute__((section(".settings"), used)) const volatile struct settings settings = {"PADISPCH", 0, ""};

/* How the emulator begins: 64 bytes below the first stack pointer are free for more arguments. */
struct start {
    word *stack;
    word entry;
};

#if defined(__x86_64__)
enum { SYS_FCNTL = 72, SYS_FSTAT = 5, SYS_EXECVE = 59, SYS_READLINKAT = 267 };
__asm__(".section .start,\"ax\"\n.globl _start\n_start:\n"
        "  mov %rdx, %r12\n  mov %rsp, %rdi\n  sub $64, %rsp\n  and $-16, %rsp\n  call choose\n"
        "  mov %rax, %rsp\n  mov %rdx, %r11\n  mov %r12, %rdx\n  xor %ebp, %ebp\n  jmp *%r11\n");
static long call(long number, long a, long b, long c, long d)
{
    register long r10 __asm__("r10") = d;
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
}
struct status { word dev, ino, nlink; unsigned mode, uid, gid, pad; word rdev; long size, blksize, blocks;
                word atime, atime_ns, mtime, mtime_ns, ctime, ctime_ns; long unused[3]; };
#elif defined(__aarch64__)
enum { SYS_FCNTL = 25, SYS_FSTAT = 80, SYS_EXECVE = 221, SYS_READLINKAT = 78 };
__asm__(".section .start,\"ax\"\n.globl _start\n_start:\n"
        "  mov x19, x0\n  mov x0, sp\n  sub sp, sp, #64\n  bl choose\n  mov sp, x0\n  mov x16, x1\n  mov x0, x19\n"
        "  mov x29, xzr\n  mov x30, xzr\n  br x16\n");
static long call(long number, long a, long b, long c, long d)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
}
struct status { word dev, ino; unsigned mode, nlink, uid, gid; word rdev, pad; long size; int blksize, pad2;
                long blocks; word atime, atime_ns, mtime, mtime_ns, ctime, ctime_ns; unsigned unused[2]; };
#else
#error "no dispatcher for this processor"
#endif

static int starts(const char *text, const char *with)
{
    while (*with)
        if (*text++ != *with++)
            return 0;
    return 1;
}

static char *append(char *to, const char *text)
{
    while (*text)
        *to++ = *text++;
    *to = 0;
    return to;
}

static char *append_number(char *to, word number)
{
    char digits[17];
    int count = 0;
    do
        digits[count++] = "0123456789abcdef"[number & 15];
    while (number >>= 4);
    while (count)
        *to++ = digits[--count];
    *to = 0;
    return to;
}

/* The text of a symbolic link, "" when there is none or it is too long. */
static int read_link(const char *path, char *text)
{
    long length = call(SYS_READLINKAT, -100, (long)path, (long)text, LONGEST - 1);
    if (length <= 0 || length >= LONGEST - 1)
        length = 0;
    text[length] = 0;
    return length > 0;
}

static const char *base_name(const char *path)
{
    const char *name = path;
    for (; *path; path++)
        if (*path == '/')
            name = path + 1;
    return *name == '-' ? name + 1 : name; /* a login shell's */
}

/* Whether something in the environment changes what a program is: its libraries, its allocator, its emulator. */
static int special(char **environment)
{
    for (; *environment; environment++)
        if (starts(*environment, "LD_") || starts(*environment, "QEMU_") || starts(*environment, "GLIBC_TUNABLES")
            || starts(*environment, "GCONV_PATH") || starts(*environment, "LOCPATH"))
            return 1;
    return 0;
}

/* Whether an argument asks for what tells the processor. */
static int curious(char **arguments)
{
    for (; *arguments; arguments++)
        if (starts(*arguments, "/proc/") || starts(*arguments, "/sys/"))
            return 1;
    return 0;
}

/* Whether an argument contains the letter; '-' is none. */
static int contain(char **arguments, char letter)
{
    for (; letter != '-' && *arguments; arguments++)
        for (const char *at = *arguments; *at; at++)
            if (*at == letter)
                return 1;
    return 0;
}

/* Finds the twin of the open file: KIND LETTER PATH in `twin`. */
static int find_twin(long file, const char *name, char *twin)
{
    struct status status;
    char path[512];
    if (call(SYS_FSTAT, file, (long)&status, 0, 0) < 0)
        return 0;
    char *end = append_number(append(path, TWINS "files/"), status.ino);
    end = append_number(append(end, "-"), (word)status.size);
    end = append_number(append(end, "-"), status.ctime * 1000000000UL + status.ctime_ns);
    if (read_link(path, twin))
        return 1;
    end = append_number(append(path, TWINS "applets/"), status.ino);
    end = append_number(append(end, "-"), (word)status.size);
    end = append_number(append(end, "-"), status.ctime * 1000000000UL + status.ctime_ns);
    name = base_name(name);
    int length = 0;
    while (name[length])
        length++;
    if (length == 0 || length > 64)
        return 0;
    append(append(end, "/"), name);
    return read_link(path, twin);
}

/* Executes the twin in this process's place; returns when that is impossible. `arguments` starts with argv[0]. */
static void execute(const char *twin, char **arguments, long count, char **environment)
{
    char libraries[LONGEST];
    char *full[count + 8];
    long used = 0;
    if (twin[0] == 's') {
        call(SYS_EXECVE, (long)(twin + 2), (long)arguments, (long)environment, 0);
        return;
    }
    if (!read_link(LIBRARIES, libraries))
        return;
    full[used++] = LOADER;
    if (twin[0] == 'g')
        full[used++] = "--inhibit-cache";
    full[used++] = "--library-path";
    full[used++] = libraries;
    full[used++] = "--argv0";
    full[used++] = arguments[0];
    full[used++] = (char *)(twin + 2);
    for (long at = 1; at <= count; at++) /* with the final null */
        full[used++] = arguments[at];
    call(SYS_EXECVE, (long)LOADER, (long)full, (long)environment, 0);
}

/* stack: argc, argv[], 0, environment[], 0, auxiliary pairs. By binfmt_misc argv is the emulator's path, the
 * program's path, the program's own argv[0] and its arguments. */
__attribute__((used)) struct start choose(word *stack)
{
    struct start start = {stack, (word)&settings + (word)settings.emulator};
    long count = (long)stack[0];
    char **arguments = (char **)(stack + 1);
    char **environment = arguments + count + 1;
    char **after = environment;
    long file = -1, flags = 0, secure = 0;
    while (*after++)
        ;
    for (word *pair = (word *)after; pair[0] != AT_NULL; pair += 2) {
        if (pair[0] == AT_EXECFD)
            file = (long)pair[1];
        else if (pair[0] == AT_FLAGS)
            flags = (long)pair[1];
        else if (pair[0] == AT_SECURE)
            secure = (long)pair[1];
    }
    if (file < 0 || count < 3 || !(flags & KEEPS_ARGV0))
        return start; /* somebody runs the emulator itself */
    if (!secure && count < MOST_ARGUMENTS && !special(environment) && !curious(arguments + 3)) {
        char twin[LONGEST];
        if (find_twin(file, arguments[2], twin) && twin[1] && !contain(arguments + 3, twin[1])) {
            /* The twin must not inherit the file, the emulator must: execve closes it if it succeeds. */
            call(SYS_FCNTL, file, 2, 1, 0);
            execute(twin, arguments + 2, count - 2, environment);
            call(SYS_FCNTL, file, 2, 0, 0);
        }
    }
    if (settings.model[0]) { /* -cpu MODEL in front of the program's path: everything behind stays where it is */
        start.stack = stack - 2;
        start.stack[0] = (word)(count + 2);
        start.stack[1] = stack[1];
        start.stack[2] = (word) "-cpu";
        start.stack[3] = (word)settings.model;
    }
    return start;
}
