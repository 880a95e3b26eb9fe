# A ratio above one widens the block to 1024 planes, as the paper's parameter count implies.
_base_ = './mask-rcnn_r50_fpn_1x_coco.py'
model = dict(
    neck=[
        _base_.model.neck,
        dict(
            type='EBFPN',
            in_channels=256,
            num_levels=5,
            refine=dict(type='ContextBlock', ratio=4),
        ),
    ]
)
