#!/bin/busybox sh
# The guest's first process: makes a small machine of the archive it was unpacked from, runs the plan that the
# host wrote beside it, and powers off. Results go to the second serial port, so that the kernel's own console
# on the first can tear no line of them. Lines that begin with `@@` are for the host.

if [ ! -e /.booted ]; then
    # pivot_root(2) refuses the initramfs itself; a bind mount of it, moved onto /, is an ordinary root.
    # The host's own programs, in /usr/bin, come first: tests may use options that busybox lacks.
    export PATH=/usr/bin:/bin HOME=/root
    /bin/busybox --install -s /bin
    mkdir -p /newroot /root /var/log /run /tmp
    touch /.booted
    mount --bind / /newroot
    cd /newroot
    mount --move . /
    exec chroot . /init
fi

# /tmp and /run stay what the archive has in them: the root is a tmpfs already.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
# What was put in may lie below it.
[ -n "$(ls -A /tmp 2>/dev/null)" ] || mount -t securityfs securityfs /sys/kernel/security
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# Every mount is shared, as an init system has it: a volume mounted later is seen in mount namespaces.
mount --make-rshared /
ip link set lo up
hostname guest

results=/dev/ttyS1
stty -F $results raw -echo

# Runs one program of the plan: its name, then its command.
run() {
    name=$1
    shift
    printf '\n@@ begin %s\n' "$name"
    "$@"
    printf '\n@@ end %s %s\n' "$name" $?
}

. /plan > $results 2>&1 < /dev/null
printf '\n@@ done\n' > $results
# Setting a terminal waits until everything written to it is out.
stty -F $results sane
poweroff -f
