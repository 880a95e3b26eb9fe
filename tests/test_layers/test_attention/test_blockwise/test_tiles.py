"""How the attention weights are cut into tiles."""

import itertools
import math

import pytest
import torch

from mmgcnl.layers.attention.blockwise import tiles


def test_tiles_cover_both_grids_once():
    grids = [(1, 1), (1, 50), (50, 1), (7, 9), (20, 20)]
    key_grids = [(1, 1), (2, 5), (2**9, 2**9), (2**20, 1), (1, 2**21)]
    for size, key_size in itertools.product(grids, key_grids):
        _, rectangles, blocks, _ = tiles.divide((1, 1, *size), key_size, 'cpu')
        seen = torch.zeros(size)
        longest = 0
        for rectangle in rectangles:
            part = seen[rectangle.rows, rectangle.columns]
            assert part.numel() == 1 or part.numel() * sum(key_size) <= 2**20
            flat = torch.zeros(part.numel())
            for tile in rectangle.tiles:
                flat[tile] += 1
                longest = max(longest, len(flat[tile]))
            part += flat.view(part.shape)
        assert (seen == 1).all()
        numbers = torch.arange(math.prod(key_size)).view(key_size)
        of_blocks = [numbers[block.rows, block.columns].flatten() for block in blocks]
        for block, of_block in zip(blocks, of_blocks):
            assert torch.equal(numbers.flatten()[block.keys], of_block)
            assert len(of_block) <= 2**12 and longest * len(of_block) <= 2**20
            assert block.on_grid(of_block[None])[0].equal(
                numbers[block.rows, block.columns]
            )
        assert torch.equal(torch.cat(of_blocks), numbers.flatten())


@pytest.mark.parametrize('shape', [(1, 8), (3, 5), (64, 2), (1, 1)])
@pytest.mark.parametrize('side', [1, 10, 24, 31, 32, 60])
def test_every_head_is_in_one_group(shape, side):
    tiling = tiles.divide((*shape, side, side), (side, side), 'cpu')
    seen = torch.zeros(shape)
    for images, heads in tiling.groups:
        seen[images, heads] += 1
    assert (seen == 1).all()
    assert tiling.small == (side < 32)
    assert (len(tiling.groups) < seen.numel()) == (tiling.small and seen.numel() > 1)
    assert tiling.most_weights < 2**21
