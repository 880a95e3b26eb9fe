"""Measure time and memory of the block as exported to ONNX, in onnxruntime.

python tools/analysis_tools/benchmark_export.py --sizes 97x97 --json work_dirs/export.json

Contenders: the block in PyTorch, its file with the attention as a Scan over the rows of the
map, and its file with the dense attention. The files take any size. Each contender runs in
its own process, in turns with the others; compare the ratios of medians.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

with contextlib.redirect_stdout(sys.stderr):  # the libraries print on import
    from mmgcnl.analysis.benchmark import (
        as_table,
        measure,
        module_contender,
        record,
    )
    from mmgcnl.layers import GCNonLocal2d
    from mmgcnl.utils.cli import positive_int
    from mmgcnl.utils.provenance import provenance

#: Contenders and the implementation that is exported.
FILES = {'ONNX, Scan': 'row_wise', 'ONNX, dense': 'dense'}


def export(block: GCNonLocal2d, path: Path) -> None:
    """Write a block to an ONNX file that takes any height and width."""
    x = torch.zeros(1, block.in_channels, 24, 40)
    sizes = dict.fromkeys((2, 3), torch.export.Dim.DYNAMIC)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    with torch.no_grad():  # a scan with gradients is not exported
        program = torch.onnx.export(
            block.eval(), (x,), dynamo=True, verbose=False, dynamic_shapes=[sizes]
        )
    program.save(str(path), external_data=False)


def onnx_step(path: str, shape: Sequence[int], threads: int) -> Callable[[], object]:
    """Make a step that runs a file in onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = False  # it would keep the memory of the first run
    session = onnxruntime.InferenceSession(
        path, options, providers=['CPUExecutionProvider']
    )
    (name,) = (node.name for node in session.get_inputs())
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).numpy()
    return lambda: session.run(None, {name: x})


def size(text: str) -> tuple[int, int]:
    """Read a size such as '97x97'."""
    try:
        height, width = (int(number) for number in text.split('x'))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not a size such as 97x97') from None
    if min(height, width) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a size such as 97x97')
    return height, width


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--sizes', nargs='+', type=size, default=[(97, 97)], help='HxW of the map (97x97)'
    )
    parser.add_argument(
        '--channels', type=positive_int, default=256, help='channels of the map (256)'
    )
    parser.add_argument(
        '--heads', type=positive_int, default=8, help='heads of the attention (8)'
    )
    parser.add_argument(
        '--repeats', type=positive_int, default=3, help='medians are taken over these (3)'
    )
    parser.add_argument(
        '--threads', type=positive_int, default=2, help='threads of each process (2)'
    )
    parser.add_argument(
        '--skip', nargs='+', default=[], choices=list(FILES), help='contenders to leave out'
    )
    parser.add_argument(
        '--json', type=Path, metavar='FILE', help='file for the measurements'
    )
    args = parser.parse_args(argv)
    for package in ('onnx', 'onnxscript', 'onnxruntime'):
        try:
            __import__(package)
        except ImportError:
            parser.error(f'{package} is missing: pip install {package}')
    build = partial(GCNonLocal2d, args.channels, 1, args.heads, attn_drop_rate=0.0)
    about = {k: v for k, v in vars(args).items() if k != 'json'} | provenance('cpu')
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name, implementation in FILES.items():
            if name not in args.skip:
                paths[name] = Path(folder, f'{implementation}.onnx')
                export(build(implementation=implementation), paths[name])
        for height, width in args.sizes:
            shape = (1, args.channels, height, width)
            steps = {'PyTorch': module_contender(build, [shape], 'infer', 'cpu')}
            for name, path in paths.items():
                steps[name] = partial(onnx_step, str(path), shape, args.threads)
            print(f'{height}x{width}')
            results = measure(steps, args.repeats, args.threads)
            found[f'{height}x{width}'] = results
            print(*as_table(results, 'PyTorch'), sep='\n')
            if args.json:  # after each size: nothing measured is lost
                record(args.json, about, found)
    if args.json:
        print(f'written: {args.json}')


if __name__ == '__main__':
    main()
