#!/usr/bin/env bash
# Run docs/preprocess.sbatch on a real Slurm of one node, made here from Debian's packages (slurm-wlm, munge):
#
#   sudo apt-get install slurm-wlm munge
#   sudo PATH="$PATH" tests/cluster/slurm_single_node.sh
#
# Needs root, and a Python environment with llava-hdf5 on PATH. Ends with "same bytes" when the parts and the local run agree.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/../.." && pwd)
place=$(mktemp -d)
host=$(hostname -s)
cpus=$(nproc)

cleanup() {
    for daemon in slurmd slurmctld; do
        [[ -f "$place/$daemon.pid" ]] && kill "$(cat "$place/$daemon.pid")" 2>/dev/null || true
    done
    rm -rf "$place"
}
trap cleanup EXIT

mkdir -p /run/munge "$place/state" "$place/spool"
chown munge: /run/munge
[[ -f /etc/munge/munge.key ]] || { dd if=/dev/urandom of=/etc/munge/munge.key bs=1k count=1 status=none; chown munge: /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }
pgrep -x munged >/dev/null || runuser -u munge -- /usr/sbin/munged

cat >"$place/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd.pid
SlurmctldLogFile=$place/slurmctld.log
SlurmdLogFile=$place/slurmd.log
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$place/slurm.conf"
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF" -N "$host"
for _ in $(seq 30); do
    sinfo -h -o %T 2>/dev/null | grep -q idle && break
    sleep 1
done
sinfo

cd "$place"
wait_for() {
    while squeue -h -j "$1" 2>/dev/null | grep -q .; do sleep 1; done
}
export PARTS=4
array=$(sbatch --parsable --cpus-per-task=1 --array=0-3 "$checkout/docs/preprocess.sbatch" quickstart.yaml setup.samples_per_shard=5)
last=$(sbatch --parsable --cpus-per-task=1 --dependency="afterok:$array" "$checkout/docs/preprocess.sbatch" quickstart.yaml --finalize setup.samples_per_shard=5)
wait_for "$array"
wait_for "$last"
cat llava-hdf5-*.log
verify_hdf5_dataset quickstart_output
create_hdf5_dataset --config quickstart.yaml setup.samples_per_shard=5 setup.output_dir=local >/dev/null 2>&1
(cd quickstart_output && sha256sum examples-*.h5 rejects.jsonl) >slurm.sums
(cd local && sha256sum examples-*.h5 rejects.jsonl) >local.sums
cmp slurm.sums local.sums && echo "same bytes: $(wc -l <local.sums) files from 4 parts and from one run"
