# The block after the last convolution of every bottleneck of the third stage.
_base_ = '../pascal_context/fcn_r50-d8_4xb2-50k_pascal-context-59-480x480.py'
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
