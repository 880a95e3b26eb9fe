"""The page in the browser. It is made of gradio's components, and calls :mod:`.view`."""

from __future__ import annotations

import os
import socket
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmgcnl.utils.libraries import needed_by
from mmgcnl.utils.text import format_size

from ..ablation import ABLATIONS, ablations_of
from ..blocks import block_type, grids
from .pictures import (
    attention_picture,
    gray_of,
    heads_picture,
    marked,
    outlined,
    resized,
    with_legend,
    zoom,
)
from .view import Explorer, Look, View, draw_view, shared_scale, write_view

os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'  # read when gradio is imported
with needed_by('the attention explorer', 'gradio'):
    import gradio as gr

AS_IT_IS = 'as it is'
AUTOMATIC = 'automatic'
OVERLAYS = ('image', 'prediction', 'ground truth')
#: Of uploaded images. A model would need too much memory for more pixels.
MAX_BYTES, MAX_PIXELS = 20 * 2**20, 4_000_000
KINDS = ('input', 'output', 'attention')
INTRODUCTION = """\
# Where does it attend?
Click on the image to choose the *query*, the place that attends. The maps show how much it
attends to each *key*, the places it can attend to. 1 is uniform: the same for all keys.
"""
# gradio has no mark for what the keyboard is on.
CSS = ':focus-visible, label:focus-within { outline: 2px solid #f97316 !important; }'


class Page:
    """Makes the page of an explorer.

    Its functions run one after the other, also those of several tabs, because a change is
    made in the model that all of them share. Only distances, which take seconds on large
    maps, are measured beside them.

    Args:
        explorer: The models and images.
        folder: For saved views. It must be in the system's folder for temporary files.
    """

    def __init__(self, explorer: Explorer, folder: Path) -> None:
        self.explorer = explorer
        self.folder = folder

    def build(self) -> gr.Blocks:
        """Make the page."""
        explorer = self.explorer
        names = [(_short(path), i) for i, path in enumerate(explorer.images)]
        allowed = {
            name
            for model, source in zip(explorer.models, explorer.sources)
            for name in ablations_of(model.blocks[source.block])
        }
        changes = [AS_IT_IS, *(name for name in ABLATIONS if name in allowed)]
        with gr.Blocks(title='Attention explorer', fill_width=True) as page:
            image = gr.State(explorer.images[0])
            gr.Markdown(INTRODUCTION)
            with gr.Row():
                with gr.Column(min_width=200):
                    chosen = gr.Dropdown(names, value=0, label='Image')
                    upload = gr.UploadButton(
                        'An image of your own', file_types=['image'], size='sm'
                    )
                blocks = [
                    gr.Dropdown(
                        list(model.blocks),
                        value=source.block,
                        label=f'Block of {model.name}',
                        visible=len(model.blocks) > 1,
                        min_width=200,
                    )
                    for model, source in zip(explorer.models, explorer.sources)
                ]
                scale = gr.Dropdown(
                    [AUTOMATIC, *('2', '8', '32', '128', '512')],
                    value=AUTOMATIC,
                    label='Top of the color scale, times uniform attention',
                    min_width=200,
                )
            change = gr.Radio(changes, value=AS_IT_IS, label='Change the block')
            meaning = gr.Markdown()
            other = gr.Dropdown(
                names,
                value=min(1, len(names) - 1),
                label='Image whose context is taken',
                visible=False,
            )
            with gr.Row():
                with gr.Column(min_width=270):
                    overlay = gr.Radio(list(OVERLAYS), value='image', show_label=False)
                    where = gr.Markdown()
                    left = self._image('the image, with the query marked by a +')
                    x = gr.Slider(0, 1, step=1, label='x of the query')
                    y = gr.Slider(0, 1, step=1, label='y of the query')
                    distances = gr.Markdown()
                panels = [self._panel() for _ in range(2 * len(explorer.models))]
            save = gr.Button('Save this view', size='sm')
            saved = gr.File(label='Saved', file_count='multiple', visible=False)

            inputs = [image, x, y, change, other, overlay, scale, *blocks]
            look = [left, *(part for panel in panels for part in panel[:4])]
            show = [
                *look,
                *(part for panel in panels for part in panel[4:]),
                meaning,
                other,
            ]

            def on(
                trigger: Callable,
                fn: Callable,
                inputs: list,
                outputs: list,
                room: str = 'model',
                **options: Any,
            ) -> Any:
                return trigger(
                    _warning(fn),
                    inputs,
                    outputs,
                    concurrency_id=room,
                    concurrency_limit=1,
                    api_visibility='private',
                    **options,
                )

            def redraw(trigger: Callable) -> None:
                event = on(trigger, self.show, inputs, show)
                at = [image, *blocks]
                on(event.then, self.distances, at, [distances], 'distances')

            opened = [image, where, x, y]
            redraw(on(page.load, self.open, [chosen], opened).then)
            redraw(on(chosen.input, self.open, [chosen], opened).then)
            redraw(on(upload.upload, self.upload, [upload], [chosen, *opened]).then)
            for component in (change, other):
                on(component.input, self.show, inputs, show, trigger_mode='always_last')
            for component in blocks:
                redraw(component.input)
            quick = dict(show_progress='hidden', trigger_mode='always_last')
            for control in (overlay, scale, x, y):
                on(control.input, self.look, inputs, look, **quick)
            for picture in (left, *(panel[2] for panel in panels)):
                # The point at once and for each click, so that the last of quick ones wins.
                at_once: dict[str, Any] = dict(
                    show_progress='hidden', trigger_mode='multiple', queue=False
                )
                moved = on(picture.select, self.click, [image], [x, y], **at_once)
                on(moved.then, self.look, inputs, look, **quick)
            on(save.click, self.save, inputs, [saved])
        return page

    def _image(self, alt_text: str) -> gr.Image:
        return gr.Image(
            show_label=False,
            alt_text=alt_text,
            interactive=False,
            format='jpeg',  # in a tenth of the time of the other formats
            buttons=['fullscreen'],
        )

    def _panel(self) -> tuple:
        """Make the column of a look: what :meth:`look` fills, then what :meth:`show`."""
        with gr.Column(min_width=270, visible=False) as column:
            text = gr.Markdown()
            mean = self._image('the attention, mean of the heads')
            heads = self._image('the attention of each head, and the scale')
            difference = gr.Markdown()
            prediction = self._image('the prediction, and below it its classes')
        return column, text, mean, heads, difference, prediction

    def open(self, number: int | None) -> list:
        """Choose an image of the list, with the query in its middle."""
        return self._open(self.explorer.images[number or 0])

    def upload(self, path: str) -> list:
        """Choose an image that was uploaded, unless a model fails on it."""
        _check_upload(path)
        return [None, *self._open(path)]

    def _open(self, path: str) -> list:
        for model in self.explorer.models:  # it may fail, before the page has changed
            model.scene(path)
        height, width = self.explorer.picture(path).shape[:2]
        name = _short(path) if path in self.explorer.images else Path(path).name
        return [
            path,
            f'`{name}`, {width} x {height} pixels (width x height)',
            gr.Slider(maximum=width - 1, value=width // 2),
            gr.Slider(maximum=height - 1, value=height // 2),
        ]

    def click(self, event: gr.SelectData, image: str) -> list[int]:
        """Move the query to where a picture was clicked."""
        picture = self.explorer.picture(image)
        factor = zoom(picture)
        return [
            min(max(int(pixel / factor), 0), size - 1)
            for pixel, size in zip(event.index, picture.shape[1::-1])
        ]

    def look(self, *inputs: Any) -> list:
        """Draw the query and its attention."""
        view = self._view(*inputs)
        return self._look(view, self.explorer.looks(view), inputs[5])

    def show(self, *inputs: Any, progress: gr.Progress = gr.Progress()) -> list:  # noqa: B008
        """Run what has changed, and draw everything."""
        view = self._view(*inputs)
        looks = self.explorer.looks(
            view, lambda done, of: progress((done, of), 'contexts of other images')
        )
        drawn = self._look(view, looks, inputs[5])
        factor = zoom(self.explorer.picture(view.image))
        for look in self._padded(looks):
            if look is None:
                drawn += ['', None]
                continue
            picture = resized(self.explorer.draw_prediction(*look.key), factor)
            if look.changed is not None and look.changed.any():
                picture = outlined(picture, look.changed, factor)
            legend = look.model.inferencer.legend(look.prediction)
            drawn += [
                f'**Prediction** {look.difference}',
                with_legend(picture, legend),
            ]
        return [
            *drawn,
            _meaning(view),
            gr.Dropdown(visible=view.ablation == 'context swapped'),
        ]

    def _look(self, view: View, looks: list[Look], overlay: str) -> list:
        picture = self.explorer.picture(view.image)
        factor, scale = zoom(picture), view.scale or shared_scale(looks)
        gray = gray_of(resized(picture, factor))
        left = resized(self._overlay(view, looks, overlay), factor)
        parts: list = [marked(left, view.point, factor)]
        for look in self._padded(looks):
            if look is None:
                parts += [gr.Column(visible=False), '', None, None]
                continue
            cells = resized(look.cells, factor)
            mean = attention_picture(gray, look.weights.mean(0), cells, scale)
            heads = heads_picture(gray, look.weights, cells, scale, view.point, factor)
            parts += [
                gr.Column(visible=True),
                self._text(view, look),
                marked(mean, view.point, factor),
                heads,
            ]
        return parts

    def _overlay(self, view: View, looks: list[Look], overlay: str) -> np.ndarray:
        if overlay == 'prediction':
            return self.explorer.draw_prediction(*looks[0].key)
        if overlay == 'ground truth':
            drawn = self.explorer.draw_truth(view.image)
            if drawn is not None:
                return drawn
            gr.Info('The ground truth of this image is not known.')
        return self.explorer.picture(view.image)

    def _padded(self, looks: list[Look]) -> list[Look | None]:
        return [*looks, *[None] * (2 * len(self.explorer.models) - len(looks))]

    def _text(self, view: View, look: Look) -> str:
        truth = self.explorer.label(view.image, view.point)
        known = '' if truth is None else f'  \ntrue: {truth}'
        peak = look.weights.mean(0).max()
        share, uniform = look.top_tenth
        return (
            f'**{look.title}**  \npredicted at the query: {look.label}{known}  \n'
            f'on the top tenth of the keys: {share:.0%} of the attention '
            f'(uniform: {uniform:.0%}); maximum {peak:.3g} times uniform'
        )

    def distances(self, image: str, *blocks: str) -> str:
        """Measure the cosine distances of an image, beside those of the data set."""
        columns: dict[str, list[str]] = {'cosine distance': list(KINDS)}
        notes = []
        for model, report, name in zip(
            self.explorer.models, self.explorer.distances, blocks
        ):
            found = model.distances(image, name)
            columns[model.name] = [_digits(found[kind]) for kind in KINDS]
            if report is not None and name in report['blocks']:
                of_set = report['blocks'][name]
                title = f'{model.name}, {report["num_images"]} images'
                columns[title] = [_digits(of_set[kind]['mean']) for kind in KINDS]
            notes.append(self._describe(model.scene(image).inputs[name], model, name))
        lines = [list(columns), ['---'] * len(columns), *zip(*columns.values())]
        table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
        return '\n\n'.join([table, *notes])

    def _describe(self, x: Any, model: Any, name: str) -> str:
        block = model.blocks[name]
        queries, keys = (format_size(grid.size) for grid in grids(block, x.shape[2:]))
        text = (
            f'`{name}` of {model.name}: {block_type(block)}, {queries} queries, {keys} keys'
        )
        parent = model.inferencer.model.get_submodule(name.rpartition('.')[0])
        if hasattr(parent, 'refine_level'):
            text += f'; the neck refines level {parent.refine_level}, counted from 0'
        return text

    def save(self, *inputs: Any) -> gr.File:
        """Write the view as PNG and JSON, to be downloaded."""
        view = self._view(*inputs)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        files = [folder / 'attention.png', folder / 'view.json']
        draw_view(self.explorer, view, files[0])
        if view.image in self.explorer.images:
            view = replace(view, image=os.path.abspath(view.image))
        else:  # it was uploaded: its file goes with the view
            files.append(folder / f'image{Path(view.image).suffix}')
            files[-1].write_bytes(Path(view.image).read_bytes())
            view = replace(view, image=files[-1].name)
        models = tuple(_absolute(source) for source in view.models)
        others = tuple(map(os.path.abspath, view.others))
        write_view(replace(view, models=models, others=others), files[1])
        return gr.File([str(path) for path in files], visible=True)

    def _view(
        self,
        image: str,
        x: float,
        y: float,
        change: str,
        other: int | None,
        overlay: str,
        scale: str,
        *blocks: str,
    ) -> View:
        explorer = self.explorer
        ablation = None if change == AS_IT_IS else change
        models = zip(explorer.sources, blocks)
        return explorer.view(
            image,
            (int(x or 0), int(y or 0)),  # None: the box was emptied
            models=tuple(replace(source, block=name) for source, name in models),
            ablation=ablation,
            others=explorer.others(ablation, explorer.images[other or 0]),
            scale=None if scale == AUTOMATIC else float(scale),
        )


def serve(
    explorer: Explorer, host: str, port: int | None, browser: bool, folder: Path
) -> gr.Blocks:
    """Serve the page without waiting for its end.

    Args:
        explorer: The models and images.
        host: Address to listen at.
        port: Port to listen at; None for the first free one from 7860 on.
        browser: Whether to open a browser.
        folder: For uploads and saved views, in the system's folder for temporary files.

    Returns:
        The page, with ``local_url`` and ``close()``.

    Raises:
        OSError: The port is taken.
    """
    os.environ['GRADIO_TEMP_DIR'] = str(folder)
    page = Page(explorer, folder).build()
    if port is not None:
        try:  # gradio's own message names options of its own
            socket.create_server((host, port)).close()
        except OSError as error:
            raise OSError(f'port {port} of {host}: {error.strerror}') from error
    page.launch(
        server_name=host,
        server_port=port,
        inbrowser=browser,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        max_file_size=MAX_BYTES,
        footer_links=[],
        enable_monitoring=False,
        run_history=False,
        ssr_mode=False,
        css=CSS,
    )
    return page


def _warning(function: Callable) -> Callable:
    """Show on the page why something cannot be done, and leave the rest as it is."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (OSError, RuntimeError, ValueError) as error:
            gr.Warning(str(error))
            return gr.skip()

    return call


def _check_upload(path: str) -> None:
    name = Path(path).name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            with Image.open(path) as image:  # reads its size only
                width, height = image.size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'{name} is not an image that can be read') from error
    if width * height > MAX_PIXELS:
        raise ValueError(
            f'{name} has {width} x {height} pixels: give an image of at most '
            f'{MAX_PIXELS // 10**6} million'
        )


def _meaning(view: View) -> str:
    """Say what is changed."""
    if view.ablation is None:
        return ''
    if view.ablation == 'context mean':
        return f'The context is the mean over {len(view.others)} images.'
    if view.ablation == 'context swapped':
        if view.others[0] == view.image:
            return 'The context is that of this image itself: choose another one.'
        return f'The context is that of {_short(view.others[0])}.'
    return f'{ABLATIONS[view.ablation].capitalize()}.'


def _absolute(source: Any) -> Any:
    paths = {
        key: os.path.abspath(path)
        for key in ('config', 'checkpoint')
        if '://' not in (path := getattr(source, key))
    }
    return replace(source, **paths)


def _short(path: str) -> str:
    return '/'.join(Path(path).parts[-2:])


def _digits(value: float | None) -> str:
    return '-' if value is None or np.isnan(value) else f'{value:.3f}'
