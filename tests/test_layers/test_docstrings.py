"""The examples in the docstrings of the layers."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize('name', ['ebfpn', 'gc_non_local'])
def test_examples_run(name):
    module = importlib.import_module(f'mmgcnl.layers.{name}')
    failed, attempted = doctest.testmod(module)
    assert attempted and not failed
