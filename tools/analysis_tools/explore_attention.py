"""Explore in the browser where a model attends: click on a pixel.

python tools/analysis_tools/explore_attention.py CONFIG CHECKPOINT IMAGES... \\
    --compare CONFIG CHECKPOINT

The page shows the attention of the query that is clicked on, what the model predicts, and
what changes in both without a prior. Nothing leaves this machine. Without IMAGES, those of
the config's test data are shown, with their ground truth.
"""

import argparse
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from mmengine.fileio import load

from mmgcnl.analysis.explorer import Explorer, ModelSource
from mmgcnl.apis import find_images
from mmgcnl.utils.cli import (
    add_cfg_options,
    add_device_argument,
    check_file,
    existing_file,
    model_names,
    positive_int,
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=existing_file, help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument(
        'images', nargs='*', help="images, folders or globs (default: the split's images)"
    )
    parser.add_argument(
        '--split',
        choices=['val', 'test'],
        help='the data set that ground truth comes from (test, unless IMAGES are given)',
    )
    parser.add_argument(
        '--compare',
        nargs=2,
        metavar=('CONFIG', 'CHECKPOINT'),
        help='a second model, beside the first',
    )
    parser.add_argument(
        '--names', nargs='+', help='names of the models (the names of their configs)'
    )
    parser.add_argument('--block', default='', help='name of the block to begin with')
    parser.add_argument('--block2', default='', help='that of the second model')
    parser.add_argument(
        '--distances',
        nargs='+',
        default=[],
        type=existing_file,
        metavar='JSON',
        help='what cosine_distance.py --json wrote for each model, to compare with',
    )
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen at; 0.0.0.0 lets other machines use the page (%(default)s)',
    )
    parser.add_argument(
        '--port', type=positive_int, help='(default: the first free one from 7860 on)'
    )
    parser.add_argument('--no-browser', action='store_true', help='do not open a browser')
    add_device_argument(parser)
    add_cfg_options(parser, ', of every model')
    args = parser.parse_args(argv)

    sources = [(args.config, args.checkpoint, args.block)]
    if args.compare:
        check_file(parser, '--compare', args.compare[0])
        sources.append((*args.compare, args.block2))
    names = model_names(parser, args.names, [config for config, *_ in sources])
    if len(args.distances) > len(sources):
        parser.error(f'--distances: give at most {len(sources)}, one for each model')
    if args.port is not None and args.port > 65535:
        parser.error(f'--port {args.port}: give at most 65535')
    split = args.split or (None if args.images else 'test')
    # A stop by a signal must end the `with`, too, which removes what was uploaded. Shells
    # start what is in the background without Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix='mmgcnl-explorer-') as folder:
        try:
            from mmgcnl.analysis.explorer.page import serve

            images = [str(path) for path in find_images(args.images)] if args.images else []
            explorer = Explorer(
                [ModelSource(*source, name) for source, name in zip(sources, names)],
                images,
                split,
                args.cfg_options,
                args.device,
                [load(path) for path in args.distances],
            )
            page = serve(explorer, args.host, args.port, not args.no_browser, Path(folder))
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            parser.error(str(error).replace('\n', ' '))
        print(f'The explorer is at {page.local_url} (Ctrl-C ends it)')
        if args.host not in ('127.0.0.1', 'localhost'):
            print(f'--host {args.host}: every machine that reaches this one can use it')
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print('\nended')
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # closing takes seconds
            page.close()
    # At its normal end, the interpreter aborts where a thread still computes.
    sys.stdout.flush()
    os._exit(0)


if __name__ == '__main__':
    main()
