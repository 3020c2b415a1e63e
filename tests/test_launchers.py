"""The scripts that start a run on all hosts: as text, and the command that they give, run here."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.runtime.meeting import free_port

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = ("slurm.sh", "tpu_vm.sh")
# Stands for `unified-fm`, which need not be on the path of a test.
PROGRAM = f"{sys.executable} -m tests.launched"
# Like srun and like `gcloud ... ssh --worker=all`: the same command in two processes, which the
# environment tells who they are. The exit status is the worst.
BOTH = """
both() {
  for rank in 0 1; do
    SLURM_JOB_ID=1 SLURM_STEP_NODELIST=127.0.0.1 SLURM_NTASKS=2 SLURM_LOCALID=0 \\
      SLURM_PROCID=$rank "$@" &
    pids[$rank]=$!
  done
  worst=0
  for pid in "${pids[@]}"; do
    wait "$pid" || worst=$?
  done
  return $worst
}
"""
SRUN = f"""#!/usr/bin/env bash
{BOTH}
[ "$1" = --kill-on-bad-exit=0 ] || exit 64
shift
both "$@"
"""
GCLOUD = f"""#!/usr/bin/env bash
{BOTH}
echo "$@" >> "$CALLS"
case "$4" in
  describe)
    now=$(head -n 1 "$STATES")
    sed -i '$!{{1d}}' "$STATES"
    case $now in
      NOT_FOUND) echo "ERROR: (gcloud) NOT_FOUND: Resource 'pod' was not found" >&2; exit 1 ;;
      NETWORK) echo "ERROR: (gcloud) There was a problem refreshing auth tokens" >&2; exit 1 ;;
      *) echo "WARNING: a newer gcloud is there" >&2; echo "$now" ;;
    esac ;;
  ssh)
    for argument in "$@"; do
      case "$argument" in --command=*) line=${{argument#--command=}} ;; esac
    done
    if [ -n "${{STATUS:-}}" ]; then
      head -n 1 "$STATUS" > "$STATUS.now"
      sed -i '$!{{1d}}' "$STATUS"
      exit "$(cat "$STATUS.now")"
    fi
    both bash -c "$line" ;;
esac
"""


@pytest.fixture
def place(tmp_path):
    """A folder with stand-ins for what a cluster has, and the environment that finds them."""
    for name, text in (
        ("srun", SRUN),
        ("gcloud", GCLOUD),
        ("scontrol", '#!/usr/bin/env bash\necho "$@" >> "$CALLS"\n'),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "states").write_text("READY\n")
    return tmp_path, os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "STATES": str(tmp_path / "states"),
        "TPU_WAIT": "0.02",
        "UNIFIED_FM": PROGRAM,
        "XLA_FLAGS": "",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COORDINATOR_PORT": str(free_port()),
        "PYTHONPATH": str(ROOT),
    }


def start(script, *arguments, env):
    return subprocess.run(
        [ROOT / "tools" / script, *arguments], cwd=ROOT, env=env, capture_output=True, text=True
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_are_sound(script):
    path = ROOT / "tools" / script
    text = path.read_text()
    subprocess.run(["bash", "-n", path], check=True)
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in text
    # Arguments with spaces stay whole: no bare $@, $* or $1.
    code = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    assert not [line for line in code if "$*" in line.replace('"$*"', "")]
    assert not [line for line in code if "$@" in line.replace('"$@"', "")]


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_arguments_they_say_how_they_are_used(script, place):
    done = start(script, env=place[1])
    assert (done.returncode, done.stderr[:6]) == (2, "usage:")


def test_what_a_slice_is_told_reaches_its_shells_whole(place):
    folder, env = place
    (folder / "status").write_text("0\n")
    arguments = ("--config=my config.py", "--workdir=gs://b/run", "--config.x=(1, '2')")
    done = start(
        "tpu_vm.sh", "pod", "zone-a", *arguments, env=env | {"STATUS": str(folder / "status")}
    )
    assert done.returncode == 0, done.stderr
    call = (folder / "calls").read_text().splitlines()[-1]
    assert call.startswith("compute tpus tpu-vm ssh pod --zone=zone-a --worker=all --command=")
    line = call.partition("--command=")[2].removeprefix(PROGRAM)
    again = subprocess.run(["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True)
    assert again.stdout.splitlines() == ["train", *arguments]


@pytest.mark.parametrize(
    ("states", "status", "ssh", "code"),
    [
        ("CREATING READY", "0", 1, 0),
        ("READY", "143 255 0", 3, 0),  # preempted, a lost connection, and through
        ("READY", "1", 4, 1),
        ("READY", "1 1 1 0", 4, 0),  # hosts that were left when one was lost
        ("READY", "1 1 1 143 1 1 0", 7, 0),
        ("READY READY READY READY REPAIRING READY", "1 1 1 1 1 0", 6, 0),
        ("READY PREEMPTED", "1", 1, 75),
        ("READY", "2", 1, 2),
        ("READY PREEMPTED", "143", 1, 75),
        ("NOT_FOUND", "0", 0, 75),
        ("NETWORK NETWORK READY NETWORK READY", "143 0", 2, 0),  # says nothing of the slice
        ("NETWORK", "0", 0, 69),
        ("READY", "255", 6, 69),  # ssh reaches no host, ever
        ("READY", "255 255 255 255 255 143 255 255 255 255 255 0", 12, 0),
        ("READY", "127", 4, 1),  # no such command on the hosts
    ],
)
def test_a_slice_that_is_lost_is_waited_for_and_a_run_that_failed_is_not(
    place, states, status, ssh, code
):
    folder, env = place
    (folder / "states").write_text("\n".join(states.split()) + "\n")
    (folder / "status").write_text("\n".join(status.split()) + "\n")
    env |= {"STATUS": str(folder / "status"), "TPU_LOST": "5"}
    done = start("tpu_vm.sh", "pod", "zone-a", "--config=a", "--workdir=b", env=env)
    assert done.returncode == code, done.stderr
    assert (folder / "calls").read_text().count(" ssh ") == ssh
    assert (code == 1) == ("times in a row, the last time with" in done.stderr)
    if code == 75:
        made = start("tpu_vm.sh", "pod", "z", "--config=a", "--workdir=b", env=env | {
            "TPU_CREATE": f"echo READY > {folder}/states; echo 0 > {folder}/status"
        })  # fmt: skip
        assert made.returncode == 0, made.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", [pytest.param(SCRIPTS[0], marks=pytest.mark.nightly), SCRIPTS[1]]
)
def test_their_command_trains_in_two_processes(script, place):
    folder, env = place
    arguments = ["--config=tests/tiny_config.py:4", f"--workdir={folder / 'run'}"]
    before = ["pod", "zone-a"] if script == "tpu_vm.sh" else []
    # The stand-ins know one way to tell a process who it is.
    done = start(script, *before, *arguments, "--config.checkpoint.every=2", env=env)
    assert done.returncode == 0, done.stderr
    saved = {path.name for path in (folder / "run" / "checkpoints").iterdir()}
    assert {"2", "4"} <= saved
    assert "waiting for the other processes (start this on all 2 workers)" in done.stderr


def test_slurm_queues_a_run_again_that_was_stopped_and_saved(place):
    folder, env = place
    env |= {"SLURM_JOB_ID": "17", "UNIFIED_FM": f"{folder / 'stopped'} with options"}
    (folder / "stopped").write_text('#!/usr/bin/env bash\necho "$@"; exit 143\n')
    (folder / "stopped").chmod(0o755)
    done = start("slurm.sh", "--config=a", "--workdir=b c", env=env)
    assert done.returncode == 143
    assert (
        done.stdout.splitlines()
        == ["with options train --grace_s=100 --config=a --workdir=b c"] * 2
    )
    assert (folder / "calls").read_text() == "requeue 17\n"
