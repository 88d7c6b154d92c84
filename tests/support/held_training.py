"""Hold training where a test disturbs it, however fast the machine is: a module for N2S_PLUGINS.

RUN_DIR/held lists samples_seen (JSON), one for each start of a Slurm job. There each rank waits for a signal to stop,
or for the file to go.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HELD = "held"

if Path(sys.argv[0]).name == "train.py":  # other programs of the job import this as well
    from n2s_dist.distributed import stop_signals
    from n2s_dist.losses.loss import Batch
    from n2s_dist.training import loop
    from n2s_dist.training.state import TrainState

    _train_step = loop.train_step
    _start = int(os.environ.get("SLURM_RESTART_COUNT", 0))

    def held_step(run: TrainState, batches: Iterator[Batch]) -> None:
        file = run.run_dir / HELD
        held = json.loads(file.read_text()) if file.exists() else []
        while _start < len(held) and run.samples_seen >= held[_start] and file.exists() and not stop_signals._received:
            time.sleep(0.05)
        _train_step(run, batches)

    loop.train_step = held_step
