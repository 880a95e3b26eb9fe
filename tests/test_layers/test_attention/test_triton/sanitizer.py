"""Watches every access of the fused kernels to memory, in Triton's interpreter.

Every tensor that a kernel gets has addresses of its own, far from those of the others, and
no access reaches real memory before it was checked. Reported are accesses beyond a tensor,
loads of what nothing has stored, elements that two programs store, or one stores and
another loads, and those that a program loads after it has stored them, or stores twice,
without a barrier between: other threads of the program may do that.
"""

import collections
import contextlib
import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import torch
from triton.runtime import interpreter

from mmgcnl.layers.attention.triton import kernels, operator

# Addresses of a tensor; it begins in their middle.
SPACE = 2**40


class Region:
    """A tensor, and what the programs have done with its elements.

    Args:
        name: Of the kernel's argument.
        tensor: Contiguous.
        is_output: Whether kernels store it.
        is_absent: Whether it stands in for a tensor that there is not.
    """

    def __init__(self, name, tensor, is_output, is_absent) -> None:
        self.name, self.is_output = name, is_output
        values = tensor.detach().numpy().reshape(-1)
        assert np.shares_memory(values, tensor.detach().numpy()), f'{name} has gaps'
        self.values = values[:0] if is_absent else values
        if is_output:
            self.stored = ~np.isnan(values)
            # Program and barrier of the last store, and program of the last load; or -1.
            self.storer, self.loader, self.barrier = np.full((3, values.size), -1)


class Pointer:
    """What the interpreter needs of a tensor."""

    def __init__(self, address, dtype) -> None:
        self.address, self.dtype = address, dtype

    def data_ptr(self) -> int:
        return self.address


class Sanitizer:
    """Reports in ``found``, by what was found and the tensor; ``accesses`` are counted."""

    def __init__(self) -> None:
        self.found, self.accesses = collections.Counter(), 0
        self.outputs, self.regions = {}, []
        self.program = self.barriers = 0

    @contextlib.contextmanager
    def watching(self, patch, module=kernels, overflow=False):
        """Watch the kernels of a module.

        Args:
            patch: pytest's MonkeyPatch.
            module: The kernels; those of the package, or with a fault in them.
            overflow: Whether an addition or product of int32 that overflows raises an
                error, as with TRITON_DEBUG=1.
        """
        builder = interpreter.InterpreterBuilder
        with patch.context() as patch:
            patch.setattr(operator, 'load_kernels', lambda: module)
            patch.setattr(operator, 'empty_output', self.empty_output)
            patch.setattr(interpreter.GridExecutor, '_init_args_hst', self.begin())
            patch.setattr(interpreter.GridExecutor, '_restore_args_dev', lambda *args: None)
            patch.setattr(builder, 'set_grid_idx', self.next_program(builder.set_grid_idx))
            patch.setattr(builder, 'create_masked_load', self.load)
            patch.setattr(builder, 'create_masked_store', self.store)
            patch.setattr(builder, 'create_barrier', self.count_barrier)
            one = interpreter.interpreter_builder
            options = dict(debug=overflow, sanitize_overflow=overflow)
            options = dataclasses.replace(one.options, **options)
            patch.setattr(one, 'options', options)
            function = interpreter.InterpretedFunction
            patch.setattr(function, '__call__', self.quick_call(function.__call__))
            with np.errstate(all='ignore'):
                yield
        for tensor in self.outputs.values():
            if tensor.isnan().any():
                self.found['never stored', str(tuple(tensor.shape))] += 1

    def empty_output(self, like, shape, dtype=None):
        tensor = like.new_full(shape, torch.nan, dtype=dtype)
        self.outputs[tensor.data_ptr()] = tensor
        return tensor

    def begin(self):
        """Give a kernel pointers in the place of tensors."""

        def pointers(executor, args, options):
            self.regions, given, seen = [], [], set()
            self.called = set()
            for name, arg in zip(executor.arg_names, args):
                if torch.is_tensor(arg):
                    # The operator gives the query in the place of tensors that are absent.
                    address, is_absent = arg.data_ptr(), arg.data_ptr() in seen
                    seen.add(address)
                    is_output = address in self.outputs and not is_absent
                    start = (len(self.regions) + 1) * SPACE + SPACE // 2
                    self.regions.append(Region(name, arg, is_output, is_absent))
                    arg = Pointer(start, arg.dtype)
                given.append(arg)
            return given, options

        return pointers

    def quick_call(self, call):
        """Let a function patch the language once a launch, not each time: much faster."""

        def quick(function, *args, **kwargs):
            if function in self.called:
                return function.rewrite()(*args, **kwargs)
            self.called.add(function)
            return call(function, *args, **kwargs)

        return quick

    def next_program(self, set_grid_idx):
        def next_one(builder, x, y, z):
            self.program = y * builder.grid_dim[0] + x
            self.barriers += 1
            set_grid_idx(builder, x, y, z)

        return next_one

    def count_barrier(self) -> None:
        self.barriers += 1

    def load(self, pointers, mask, other, *_):
        values = np.full(
            pointers.data.shape, np.nan if other is None else other.data
        ).reshape(-1)
        # Without a default, what is not loaded is not known.
        values = values.astype(interpreter._get_np_dtype(pointers.get_element_ty()))
        for region, lanes, elements in self.checked(pointers, mask, values.itemsize):
            values[lanes] = region.values[elements]
            if region.is_output:
                self.note_load(region, elements)
        values = values.reshape(pointers.data.shape)
        return interpreter.TensorHandle(values, pointers.get_element_ty())

    def store(self, pointers, value, mask, *_):
        given = np.broadcast_to(value.data, pointers.data.shape).reshape(-1)
        for region, lanes, elements in self.checked(pointers, mask, given.itemsize):
            if not region.is_output:
                self.found['stored, an input', region.name] += 1
                continue
            self.note_store(region, elements)
            region.values[elements] = given[lanes]

    def checked(self, pointers, mask, itemsize):
        """The tensor of an access, the lanes that are in it, and their elements."""
        addresses = pointers.data.reshape(-1).astype(np.int64)
        active = np.broadcast_to(mask.data, pointers.data.shape).reshape(-1)
        self.accesses += int(active.sum())
        if not active.any():
            return
        spaces = addresses // SPACE - 1
        (lanes,) = active.nonzero()
        space = spaces[lanes[0]]
        if not 0 <= space < len(self.regions):
            self.found['outside of all tensors', ''] += 1
            return
        region = self.regions[space]
        start = (space + 1) * SPACE + SPACE // 2
        elements, rest = np.divmod(addresses[lanes] - start, itemsize)
        inside = (elements >= 0) & (elements < len(region.values)) & (rest == 0)
        if not inside.all() or itemsize != region.values.itemsize:
            self.found['out of bounds', region.name] += 1
        yield region, lanes[inside], elements[inside]

    def note_load(self, region, elements) -> None:
        if not region.stored[elements].all():
            self.found['loaded, but never stored', region.name] += 1
        storer = region.storer[elements]
        if ((storer >= 0) & (storer != self.program)).any():
            self.found['loaded after another program stored it', region.name] += 1
        recent = region.barrier[elements] == self.barriers
        if (recent & (storer == self.program)).any():
            self.found['loaded after it was stored, without a barrier', region.name] += 1
        region.loader[elements] = self.program

    def note_store(self, region, elements) -> None:
        if len(np.unique(elements)) < len(elements):
            self.found['stored twice at once', region.name] += 1
        storer, loader = region.storer[elements], region.loader[elements]
        if ((storer >= 0) & (storer != self.program)).any():
            self.found['stored by two programs', region.name] += 1
        if ((loader >= 0) & (loader != self.program)).any():
            self.found['stored after another program loaded it', region.name] += 1
        if (region.barrier[elements] == self.barriers).any():
            self.found['stored twice without a barrier', region.name] += 1
        region.stored[elements] = True
        region.storer[elements], region.barrier[elements] = self.program, self.barriers


def kernels_with(folder: Path, *replacements: tuple[str, str]):
    """The module of the kernels with texts in it replaced, each time that they occur."""
    source = Path(kernels.__file__).read_text()
    for before, after in replacements:
        assert before in source, f'the kernels have changed: {before}'
        source = source.replace(before, after)
    path = folder / 'changed_kernels.py'
    path.write_text(source)
    spec = importlib.util.spec_from_file_location('changed_kernels', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
