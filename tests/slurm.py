"""A stand-in for Slurm, as far as submitit needs it."""

import os
import signal
import time
from pathlib import Path

import psutil

SBATCH = """
cp "$1" $SLURM/script
id=$(date +%s%N)
mv $SLURM/script $SLURM/$id.sh
echo $id >>$SLURM/submitted
setsid $SLURM/slurmd $id >>$SLURM/log 2>&1 </dev/null &
echo "Submitted batch job $id"
"""
# Runs a job, and again when it was queued again. A file `hold` keeps jobs in the queue.
SLURMD = """
export SLURM_JOB_ID=$1
echo PENDING >$SLURM/$1.state
while [ -e $SLURM/hold ]; do sleep 0.1; done
echo RUNNING >$SLURM/$1.state
while
    bash $SLURM/$1.sh && state=COMPLETED || state=FAILED
    [ -e $SLURM/$1.requeue ]
do
    rm $SLURM/$1.requeue
done
echo $state >$SLURM/$1.state
"""
SRUN = """
while :; do
    case $1 in
        --output) output=$(echo "$2" | sed "s/%j/$SLURM_JOB_ID/; s/%t/0/"); shift 2;;
        --error) error=$(echo "$2" | sed "s/%j/$SLURM_JOB_ID/; s/%t/0/"); shift 2;;
        --*) shift;;
        *) break;;
    esac
done
echo $$ >$SLURM/$SLURM_JOB_ID.step
exec "$@" >>"$output" 2>>"$error"
"""
SACCT = """
echo 'JobID|State|NodeList'
for id in "$@"; do
    [ ! -e $SLURM/$id.state ] || echo "$id|$(cat $SLURM/$id.state)|here"
done
"""
SCONTROL = """
[ "$1" = requeue ] && touch $SLURM/$2.requeue
"""


class Slurm:
    """The commands of Slurm, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name, text in dict(
            sbatch=SBATCH, slurmd=SLURMD, srun=SRUN, sacct=SACCT, scontrol=SCONTROL
        ).items():
            (folder / name).write_text(f'#!/bin/sh\nSLURM={folder}\n{text}')
            (folder / name).chmod(0o755)
        path = os.pathsep.join([str(folder), os.environ['PATH']])
        self.environment = dict(PATH=path)

    @property
    def submitted(self) -> list[str]:
        """The numbers of all jobs."""
        path = self.folder / 'submitted'
        return path.read_text().split() if path.is_file() else []

    def script(self, number: str) -> str:
        """What was given to sbatch."""
        return (self.folder / f'{number}.sh').read_text()

    def signal(self, number: str, kind: signal.Signals) -> None:
        """Send a signal to all processes of a job, as Slurm does."""
        step = psutil.Process(int((self.folder / f'{number}.step').read_text()))
        for process in [*step.children(recursive=True), step]:
            process.send_signal(kind)

    def end(self) -> None:
        """End the jobs that are left."""
        for process in psutil.process_iter(['cmdline']):
            if f'{self.folder}/slurmd' in (process.info['cmdline'] or []):
                for child in [process, *process.children(recursive=True)]:
                    child.kill()


def until(condition, seconds: float = 600) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
