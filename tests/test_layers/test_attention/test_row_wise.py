"""Row-wise attention against the dense reference, and as torch.export keeps it."""

import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.torch_version import TorchVersion

from mmgcnl.layers import EBFPN, GCNonLocal2d
from mmgcnl.layers.attention.row_wise import is_exporting
from tests.test_layers.test_attention.cases import (
    TOLERANCE,
    cases,
    check,
)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(case=cases(dropout=False, largest=13))
@pytest.mark.parametrize('dtype', TOLERANCE)
def test_row_wise_is_exact(dtype, case):
    check(case, 'row_wise', dtype)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(case=cases(dropout=True, largest=13))
def test_row_wise_drops_the_same_weights_as_dense(case):
    check(case, 'row_wise', torch.float32)


def exported(block, x, dynamic):
    if not hasattr(torch.compiler, 'is_exporting'):
        pytest.skip('torch.compiler.is_exporting needs torch 2.7')
    sizes = dict.fromkeys((2, 3), torch.export.Dim.DYNAMIC)
    return torch.export.export(block, (x,), dynamic_shapes=[sizes] if dynamic else None)


class Pyramid(nn.Module):
    """EBFPN on levels that it makes from its input."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = EBFPN(16, 3, 1, refine=GCNonLocal2d(16, 1, 2, kv_stride=2))

    def forward(self, x):
        return self.neck([x, x[..., ::2, ::2], x[..., ::4, ::4]])


def random_weights(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


def assert_equal(function, module, sizes):
    for size in sizes:
        x = torch.randn(2, 16, *size)
        torch.testing.assert_close(function(x), module(x), rtol=1e-4, atol=1e-4)


MODULES = [
    lambda: GCNonLocal2d(16, 1, 2),
    lambda: GCNonLocal2d(16, 1, 2, kv_stride=2),
    Pyramid,
]


@pytest.mark.parametrize('make', MODULES)
def test_exported_program_is_exact_at_any_size(make):
    """And once it is decomposed; with gradients enabled, and as many images as heads."""
    old = TorchVersion(torch.__version__) < '2.13'
    if old and make is not MODULES[0]:
        pytest.skip('torch 2.11 exports subsampled keys for even or odd sizes only')
    module = random_weights(make())
    program = exported(module, torch.randn(2, 16, 24, 28), dynamic=True)
    targets = {str(node.target) for node in program.graph.nodes}
    assert 'scan' in targets and not any('mmgcnl' in target for target in targets)
    assert not is_exporting()
    sizes = [(24, 28), (19, 40), (33, 21)]
    assert_equal(program.module(), module, sizes)
    if not old:
        assert_equal(program.run_decompositions().module(), module, sizes)


@pytest.mark.parametrize('make', MODULES)
def test_decomposed_program_is_exact_at_its_size(make):
    if TorchVersion(torch.__version__) < '2.13':
        pytest.skip('torch 2.11 exports subsampled keys for even or odd sizes only')
    module = random_weights(make())
    program = exported(module, torch.randn(2, 16, 24, 28), dynamic=False)
    assert_equal(program.run_decompositions().module(), module, [(24, 28)])


def test_exported_program_has_gradients():
    module = random_weights(GCNonLocal2d(16, 1, 2))
    program = exported(module, torch.randn(2, 16, 12, 14), dynamic=True).module()
    x = torch.randn(2, 16, 9, 10)
    found, expected = (
        torch.autograd.grad(m(x).square().mean(), list(m.parameters()))
        for m in (program, module)
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings('ignore')  # torch's, of its own exporter
@pytest.mark.parametrize('make', MODULES)
def test_onnx_file_loads_everywhere(make, tmp_path):
    """As a user exports it: with gradients enabled and for any size."""
    for package in ('onnx', 'onnxscript'):
        pytest.importorskip(package)
    onnxruntime = pytest.importorskip('onnxruntime')
    openvino = pytest.importorskip('openvino')
    module = random_weights(make())
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    x = torch.randn(2, 16, 24, 28)
    program = torch.onnx.export(module, (x,), dynamo=True, dynamic_shapes=[sizes])
    path = str(tmp_path / 'module.onnx')
    program.save(path)
    assert 'Scan' in {node.op_type for node in program.model.graph}
    session = onnxruntime.InferenceSession(path)
    options = {'INFERENCE_PRECISION_HINT': 'f32'}
    compiled = openvino.Core().compile_model(path, 'CPU', options)
    for shape in [(2, 16, 24, 28), (1, 16, 19, 40), (3, 16, 33, 21)]:
        x = torch.randn(shape)
        expected = module(x)
        expected = list(expected) if isinstance(expected, tuple) else [expected]
        name = session.get_inputs()[0].name
        for outputs in (session.run(None, {name: x.numpy()}), compiled(x.numpy()).values()):
            outputs = [torch.from_numpy(output) for output in outputs]
            torch.testing.assert_close(outputs, [y.detach() for y in expected])


def test_compiling_is_not_taken_for_exporting(monkeypatch):
    # torch.compile of torch 2.11 takes this function for True.
    monkeypatch.setattr(torch.compiler, 'is_exporting', lambda: True, raising=False)
    assert not is_exporting()


def test_exported_block_never_holds_all_weights():
    height, width, heads = 20, 24, 2
    block = GCNonLocal2d(16, 1, heads).eval()
    program = exported(block, torch.randn(1, 16, height, width), dynamic=False)
    sizes = [
        node.meta['val'].numel()
        for module in program.graph_module.modules()
        for node in module.graph.nodes
        if isinstance(node.meta.get('val'), torch.Tensor)
    ]
    # At most the weights of a row of queries.
    assert max(sizes) == heads * width * (height * width)
