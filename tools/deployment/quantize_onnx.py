"""Write float16 and int8 copies of an exported segmentor, and compare them with it.

python tools/deployment/quantize_onnx.py CONFIG model.onnx

model.onnx is what export_onnx.py writes without --labels, with --dynamic where the images
differ in size. Written beside it: model_float16.onnx; model_static.onnx, int8 with the
ranges of activations of training images; model_dynamic.onnx, int8 with those of each run.

The table has the metrics on the config's test data, the size of the files, and the CPU time
for one image in one thread, relative to model.onnx: medians of 9 runs, in turns.
"""

import argparse
import logging
import statistics
import time
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

from mmgcnl.utils.cli import add_cfg_options, existing_file, positive_int, read_config

#: The copies.
FORMS = ('float16', 'static', 'dynamic')


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=existing_file, help='path of the config')
    parser.add_argument('model', type=existing_file, help='path of the exported file')
    parser.add_argument(
        '--images', type=positive_int, default=32, help='training images for ranges (32)'
    )
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    try:
        import onnx
        import onnxruntime
        from onnxruntime.quantization import quantize_dynamic, quantize_static
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        parser.error(f'{error.name} is missing: pip install onnx onnxruntime')
    import torch
    from mmengine.evaluator import Evaluator
    from prettytable import PrettyTable
    from rich.progress import track

    from mmgcnl.apis import build_model
    from mmgcnl.datasets import build_dataloader
    from mmgcnl.datasets.loading import leaf_datasets
    from mmgcnl.utils.text import first_cause

    try:
        cfg = read_config(args.config, args.cfg_options)
        logging.disable(logging.WARNING)  # tables of classes, advice on quantization
        model = build_model(cfg).eval()  # for what comes before and after the network
        if not hasattr(model, 'encode_decode'):
            raise ValueError(f'{type(model).__name__} is not a segmentor')
        loader = build_dataloader(cfg.test_dataloader)
        train = dict(next(leaf_datasets(cfg.train_dataloader.dataset)))
        train['pipeline'] = next(leaf_datasets(cfg.test_dataloader.dataset)).pipeline
        batches = build_dataloader(dict(cfg.test_dataloader, dataset=train))
        images = [
            {'input': model.data_preprocessor(batch)['inputs'][:1].numpy()}
            for batch in islice(batches, args.images)
        ]
    except (AttributeError, RuntimeError, ValueError) as error:
        parser.error(f'{args.config}: {error}')

    path = Path(args.model)
    paths = [path, *(path.with_stem(f'{path.stem}_{form}') for form in FORMS)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    seconds: list[list[float]] = [[] for _ in paths]
    metrics = []
    try:
        original = onnx.load(path)
        if original.graph.output[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise ValueError('its output is no logits: export it without --labels')
        onnx.save(convert_float_to_float16(original, keep_io_types=True), paths[1])
        # onnxruntime takes one input after the other, until None.
        reader = SimpleNamespace(get_next=partial(next, iter(images), None))
        quantize_static(path, paths[2], reader, per_channel=True)
        quantize_dynamic(path, paths[3], per_channel=True)
        runs = [
            onnxruntime.InferenceSession(
                str(path), options, providers=['CPUExecutionProvider']
            ).run
            for path in paths
        ]
        for _ in range(1 + 9):  # the first is not counted
            for run, taken in zip(runs, seconds):
                start = time.process_time()
                run(['output'], images[0])
                taken.append(time.process_time() - start)

        evaluator = Evaluator(cfg.test_evaluator)
        evaluator.dataset_meta = loader.dataset.metainfo
        for path, run in zip(paths, runs):
            model.encode_decode = lambda x, _, run=run: torch.from_numpy(
                run(['output'], {'input': x.numpy()})[0]
            )
            for batch in track(loader, path.name, transient=True):
                evaluator.process(model.test_step(batch), batch)
            metrics.append(evaluator.evaluate(len(loader.dataset)))
    except Exception as error:  # onnxruntime has one class per error code
        remedy = '; export it with --dynamic' if 'invalid dimensions' in str(error) else ''
        parser.error(f'{args.model}: {first_cause(error)}{remedy}')

    table = PrettyTable(['file', *metrics[0], 'MiB', 'CPU time'])
    times = [statistics.median(taken[1:]) for taken in seconds]
    for path, found, taken in zip(paths, metrics, times):
        values = [f'{value:.2f}' for value in found.values()]
        size = f'{path.stat().st_size / 2**20:.1f}'
        table.add_row([path.name, *values, size, f'{taken / times[0]:.2f}'])
    print(table)


if __name__ == '__main__':
    main()
