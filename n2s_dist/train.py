"""Train a score network on noisy images alone, or a baseline to compare with.

    accelerate launch -m n2s_dist.train --config configs/gaussian25.yaml --run-dir runs/a --data.shards shards/bsd400

The same command continues an interrupted run from its newest checkpoint. All that a run is can be
derived from its configuration and samples_seen: order, crops, noise, perturbations and schedules.
"""

if __name__ == "__main__":  # what comes next takes seconds to import, in which signals count as well
    from n2s_dist.distributed import stop_signals
    from n2s_dist.utils import streams

    streams.guard()  # first: what is opened next must not become a stream that was closed
    stop_signals.listen()

from n2s_dist.distributed import stop_signals
from n2s_dist.distributed.meeting import Meeting
from n2s_dist.training.command_line import read_config
from n2s_dist.training.loop import train
from n2s_dist.utils.errors import Stopped, run_command
from n2s_dist.utils.stopwatch import Stopwatch, process_age_sec


def main() -> None:
    stopwatch = Stopwatch(process_age_sec())
    stopwatch.lap("imports")
    try:
        with Meeting() as meeting:
            config = read_config()
            stopwatch.lap("settings")
            train(config, stopwatch, meeting)
    except Stopped:
        stop_signals.ignore()
        raise


if __name__ == "__main__":
    run_command(main)
