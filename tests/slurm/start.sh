#!/usr/bin/env bash
# A one-node Slurm for tests, in a temporary folder: sudo tests/slurm/start.sh
#
# Installs Debian's slurm-wlm and munge if they are missing, starts munged, slurmctld and slurmd by hand
# (no systemd, no cgroups, no accounting), and prints the lines to use it and to stop it:
#   export SLURM_CONF=...      # for sbatch, squeue, scancel, scontrol
#   export SLURM_STOP=...      # a script that stops the daemons and removes the folder
# Exit code 77: it can't be had here; the last line on stderr says why.
set -euo pipefail

missing() { echo "no Slurm here: $*" >&2; exit 77; }

[ "$(id -u)" = 0 ] || missing "starting its daemons needs root"
if ! { command -v slurmctld && command -v slurmd && command -v munged && command -v sbatch; } >/dev/null; then
  command -v apt-get >/dev/null || missing "slurm-wlm is not installed, and there is no apt-get"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends slurm-wlm munge; } >/dev/null 2>&1 ||
    missing "apt-get can't install slurm-wlm and munge"
fi

folder=$(mktemp -d /tmp/slurm-XXXXXX)
mkdir "$folder/state" "$folder/spool"
chmod 755 "$folder"

cat >"$folder/stop.sh" <<EOF
#!/usr/bin/env bash
# Steps first: a job that outlives its daemon would hold its run.
SLURM_CONF=$folder/slurm.conf scancel --full --signal=KILL --user=root 2>/dev/null
for name in slurmctld slurmd munged; do
  [ -s $folder/\$name.pid ] && kill -KILL \$(cat $folder/\$name.pid) 2>/dev/null
done
# What watches a step is nobody's child; it is known by the folder its daemon worked in.
for step in \$(pgrep -x slurmstepd); do
  [ "\$(readlink /proc/\$step/cwd)" = $folder ] && kill -KILL \$step
done
rm -rf $folder
EOF
chmod 755 "$folder/stop.sh"
trap '"$folder/stop.sh"' ERR

dd if=/dev/urandom of="$folder/munge.key" bs=128 count=1 2>/dev/null
chmod 400 "$folder/munge.key"
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
  --log-file="$folder/munged.log" --seed-file="$folder/munged.seed" >/dev/null 2>&1 ||
  { trap - ERR; "$folder/stop.sh"; missing "munged does not start"; }

# Ports that nobody listens on, so that two may live side by side.
port=$(python3 - <<'PYTHON'
import socket

while True:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("", 0))
        port = first.getsockname()[1]
        try:
            second.bind(("", port + 1))
        except (OSError, OverflowError):
            continue
        print(port)
        break
PYTHON
)
# cred_expire: how long a requeued job waits, besides. MinJobAge: ended jobs leave squeue soon.
cat >"$folder/slurm.conf" <<EOF
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort=$port
SlurmdPort=$((port + 1))
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=5
MinJobAge=5
MessageTimeout=30
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=localhost CPUs=2 State=UNKNOWN
PartitionName=test Nodes=localhost Default=YES MaxTime=INFINITE State=UP
EOF
export SLURM_CONF="$folder/slurm.conf"
start() { "$@" >"$folder/start.log" 2>&1 </dev/null; }
{ start slurmctld -f "$SLURM_CONF" && start slurmd -f "$SLURM_CONF" -N localhost; } || {
  reason=$(tail -n 1 "$folder/start.log" || true); trap - ERR; "$folder/stop.sh"; missing "the daemons do not start: $reason"
}
for _ in $(seq 100); do
  if [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ]; then
    echo "export SLURM_CONF=$SLURM_CONF"
    echo "export SLURM_STOP=$folder/stop.sh"
    exit 0
  fi
  sleep 0.2
done
reason=$(tail -n 1 "$folder/slurmd.log" 2>/dev/null || true)
trap - ERR; "$folder/stop.sh"; missing "the node does not become idle: $reason"
