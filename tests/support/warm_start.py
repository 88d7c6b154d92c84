"""What a training run imports and prepares at its start, done once: for the process that ranks are forked from.

It takes half of a short run. Nothing here starts a thread or autograd's engine, which no fork survives.
"""

import torch
import torch._dynamo
from torch.utils.flop_counter import FlopCounterMode

from n2s_dist import evaluate, train  # noqa: F401  the programs
from n2s_dist.loading.crop_pipeline import crop_pipeline
from n2s_dist.models.score_model import build_score_model
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.training.command_line import read_config
from n2s_dist.training.telemetry import matmul_peak

_threads = torch.get_num_threads()
torch.set_num_threads(1)

# DALI rewrites the function that describes its graph, once in a process.
crop_pipeline(lambda: (), 8, Gaussian(0.1), "cpu", batch_size=1, num_threads=1, device_id=None)
matmul_peak(torch.device("cpu"), torch.float32, 1)  # remembered, and measured where nothing else goes on
_model = build_score_model(read_config(["--network.widths=[4,8]", "--network.blocks=1"]), 3)
with torch.no_grad(), FlopCounterMode(display=False):  # which imports what an operation is made of
    _model.to("meta").denoise(torch.empty(1, 3, 8, 8, device="meta"), Gaussian(0.1))

torch.set_num_threads(_threads)
