# Overfits the first 8 training images, and evaluates on them.
_base_ = './gcnl_r18-d8_1xb4-500_camvid-180x240.py'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=_base_.img_scale, keep_ratio=True),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(indices=8, pipeline=train_pipeline))
evaluated = dict(
    indices=8,
    data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
)
val_dataloader = dict(dataset=evaluated)
test_dataloader = dict(dataset=evaluated)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=20, by_epoch=False),
    dict(type='PolyLR', eta_min=0, power=0.9, begin=20, end=300, by_epoch=False),
]
train_cfg = dict(max_iters=300, val_interval=50)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=300))
