"""Training in two processes is training in one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.distributed
def test_two_processes_train_like_one():
    """Every method, with its schedule, under DDP and FSDP2: losses of the same batches, and the adapter at the end."""
    script = str(Path(__file__).parent / "distributed_training.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    differences = json.loads(run.stdout.splitlines()[-1])
    assert len(differences) == 2 * 6
    assert {training: apart for training, apart in differences.items() if max(apart) > 1e-5} == {}
