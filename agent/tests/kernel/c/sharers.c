/* Two processes on one memory, as vfork makes them: the child allocates, the parent waits for it. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static int hog(void *unused) {
    prctl(PR_SET_NAME, "sharer");
    for (;;) memset(malloc(1 << 20), 1, 1 << 20);
    return 0;
}

int main(void) {
    char line[8];
    if (!fgets(line, sizeof line, stdin)) return 2;
    static char stack[1 << 16] __attribute__((aligned(16)));
    if (clone(hog, stack + sizeof stack, CLONE_VM | SIGCHLD, 0) < 0) return 3;
    for (;;) pause();
}
