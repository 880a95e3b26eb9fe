# The block after the last convolution of every bottleneck of the third stage.
_base_ = '../ebfpn/mask-rcnn_r50_fpn_1x_coco.py'
model = dict(
    backbone=dict(
        plugins=[
            dict(
                cfg=dict(type='GCNonLocal2d', num_heads=8),
                stages=(False, False, True, False),
                position='after_conv3',
            )
        ]
    )
)
