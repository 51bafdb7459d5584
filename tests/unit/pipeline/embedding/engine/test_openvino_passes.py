"""Rows get few different lengths and little padding; the first pass is made before there are threads."""

import subprocess
import sys

import pytest

from pipeline.embedding.engine.openvino_passes import shape_step

_FIRST_PASSES = """
import faulthandler, sys, threading
faulthandler.dump_traceback_later(60, exit=True)
import numpy as np, openvino
from openvino import opset13
from pipeline.embedding.engine.batching import SpecialTokens
from pipeline.embedding.engine.openvino_passes import OpenVinoPasses

ids = opset13.parameter([-1, -1], np.int64, name="input_ids")
mask = opset13.parameter([-1, -1], np.int64, name="attention_mask")
for parameter in (ids, mask):
    parameter.output(0).set_names({parameter.get_friendly_name()})
model = openvino.Model([opset13.convert(opset13.multiply(ids, mask), "f32")], [ids, mask])
threads_of_passes = []

class Watched:
    def __init__(self, compiled):
        self.compiled = compiled
    def create_infer_request(self):
        threads_of_passes.append(threading.current_thread())
        return self.compiled.create_infer_request()

compiled = Watched(openvino.compile_model(model, "CPU", {"NUM_STREAMS": "2"}))
sys.setswitchinterval(1e-6)
passes = OpenVinoPasses(compiled, padding_id=0, limit=8, masks_prompt=False, dimension=3, unit_length=False)
assert threads_of_passes == [threading.main_thread()], threads_of_passes
none = SpecialTokens(np.empty(0, np.int32), np.empty(0, np.int32), 0)
both = threading.Barrier(2)
vectors = []

def run():
    both.wait()
    vectors.append(passes.run([np.array([1, 2, 3])], none).wait())

workers = [threading.Thread(target=run) for _ in range(2)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
assert [one.tolist() for one in vectors] == [[[1, 2, 3]], [[1, 2, 3]]], vectors
"""


@pytest.mark.parametrize(("longest", "step"), [(1, 1), (15, 1), (16, 2), (33, 4), (64, 8), (128, 16), (8192, 16)])
def test_the_step_follows_the_length(longest: int, step: int) -> None:
    assert shape_step(longest) == step


def test_an_eighth_is_the_most_that_is_padded_and_lengths_are_few() -> None:
    padded = {length: -(-length // shape_step(length)) * shape_step(length) for length in range(1, 513)}
    assert all(row <= length * 9 / 8 for length, row in padded.items())
    assert len(set(padded.values())) <= 64


def test_two_threads_may_make_their_first_passes_at_one_time() -> None:
    """In a process of its own: the first pass of a process is what hung."""
    command = [sys.executable, "-c", _FIRST_PASSES]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
