import os
import subprocess
import sys
from pathlib import Path


def test_every_layer_compiles_whole_and_without_a_warning():
    command = [sys.executable, str(Path(__file__).parent / "compiling.py")]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=280, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert run.returncode == 0, run.stderr[-3000:]
