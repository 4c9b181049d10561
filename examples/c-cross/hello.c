/* Says what it was compiled for and what the C library finds. */
#include <stdio.h>
#include <sys/utsname.h>

#if defined(__x86_64__)
#define COMPILED_FOR "amd64"
#elif defined(__aarch64__)
#define COMPILED_FOR "arm64"
#else
#define COMPILED_FOR "something else"
#endif

int main(int argc, char **argv)
{
	struct utsname found;

	if (uname(&found) != 0) {
		perror("uname");
		return 1;
	}
	printf("hello %s, from C (gcc %s) compiled for %s, running on %s\n",
	       argc > 1 ? argv[1] : "world", __VERSION__, COMPILED_FOR, found.machine);
	return 0;
}
