"""The networks as OpenVINO runs them in float32, converted from the peer's."""

import warnings

import openvino

from ssd1b_jax.bench.contenders import Prepared
from ssd1b_jax.bench.peer import call, output
from ssd1b_jax.bench.task import Task


def network(task: Task) -> Prepared:
    module, inputs = call(task)
    shapes = [tuple(tensor.shape) for tensor in inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what PyTorch's tracing takes for fixed: shapes, which are
        model = openvino.convert_model(module, example_input=inputs, input=shapes)
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    arrays = [tensor.numpy() for tensor in inputs]
    return Prepared(lambda: compiled(arrays), output=lambda: output(task, compiled(arrays)[0]))


PARTS = {"unet": network, "vae-encode": network, "vae-decode": network}
