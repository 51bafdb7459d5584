"""What the engine takes above the loaded model stays small, whatever lengths come together."""

import json
import subprocess
import sys

import pytest

_MEASURE = """
import json, random
import numpy as np
from transformers import BertConfig, BertModel
from pipeline.telemetry import process_memory
from pipeline.embedding.engine.batch_runner import BatchPlan, BatchRunner
from pipeline.embedding.engine.device_transfer import HostTransfer
from pipeline.embedding.engine.torch_passes import TorchPasses
from tests.unit.pipeline.embedding.bare_models import SPECIAL_TOKENS, forward_of

# As wide as all-MiniLM-L6-v2, so that a pass takes as much; of its layers one is alive at a time anyway.
width = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12}
config = BertConfig(num_hidden_layers=1, vocab_size=900, **width)
forward = forward_of(BertModel(config), "mean")
forward.use_flat_batches()
sequences = [np.arange(random.Random(i).randint(1, 509), dtype=np.int32) for i in range(500)]
base = process_memory.resident_bytes()
process_memory.forget_peak()
runner = BatchRunner(TorchPasses(forward, HostTransfer()), BatchPlan(1024, workers=4), dimension=384)
assert np.isfinite(runner.vectors(sequences, SPECIAL_TOKENS)).all()
print(json.dumps(process_memory.peak_bytes() - base))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux")
def test_any_mix_of_lengths_takes_little_memory() -> None:
    done = subprocess.run([sys.executable, "-c", _MEASURE], stdout=subprocess.PIPE, text=True, check=True)
    assert json.loads(done.stdout) < 300e6
