# The necks behind the FPN. All convolutions of their blocks start from Xavier's
# distribution, the output layers included, as in the mmdet 1.x of the paper.
xavier = dict(type='Xavier', layer='Conv2d', distribution='uniform')
# mmdet's BFP: the plain non-local block, without a scale on its logits.
bfpn = dict(
    type='EBFPN',
    in_channels=256,
    num_levels=5,
    refine=dict(type='NonLocal2d', reduction=1, use_scale=False),
    init_cfg=xavier,
)
ebfpn = dict(type='EBFPN', in_channels=256, num_levels=5, init_cfg=xavier)
