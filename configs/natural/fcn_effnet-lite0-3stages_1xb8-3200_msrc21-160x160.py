# The first three stages only, at a stride of 8: their receptive field is 67 pixels, so that
# what is farther away is left to the block.
_base_ = './fcn_effnet-lite0-s16_1xb8-3200_msrc21-160x160.py'
model = dict(
    backbone=dict(out_indices=(2,), output_stride=8), decode_head=dict(in_channels=40)
)
