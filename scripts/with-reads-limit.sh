#!/usr/bin/env bash
# with-reads-limit.sh 20000 FILE COMMAND...   run COMMAND while FILE's drive serves it at most so many reads a second, of whatever size: as a slower drive would.
# Needs root. Works with cgroup v1 (blkio controller) and v2, where the kernel can throttle.
set -u
limit=$1 file=$2; shift 2
# The drive of a partition is its parent.
device=$(findmnt -no MAJ:MIN -T "$file" | tr -d ' ') || exit 1
whole=$(readlink -f "/sys/dev/block/$device")
if [ -e "$whole/partition" ]; then device=$(cat "$whole/../dev"); fi
if [ -d /sys/fs/cgroup/blkio ]; then dir=/sys/fs/cgroup/blkio/reads.$$; max=blkio.throttle.read_iops_device; line="$device $limit"; procs=tasks
else dir=/sys/fs/cgroup/reads.$$; max=io.max; line="$device riops=$limit"; procs=cgroup.procs; fi
mkdir "$dir" || exit 1
echo "$line" > "$dir/$max" || { rmdir "$dir"; exit 1; }
( echo "$BASHPID" > "$dir/$procs" && exec "$@" ); rc=$?
rmdir "$dir" 2>/dev/null
exit $rc
