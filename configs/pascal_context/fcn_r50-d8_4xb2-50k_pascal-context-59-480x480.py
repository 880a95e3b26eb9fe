_base_ = [
    '../_base_/models/fcn_r50-d8.py',
    '../_base_/datasets/pascal_context_59.py',
    '../_base_/schedules/schedule_50k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=59),
    test_cfg=dict(mode='slide', crop_size=_base_.crop_size, stride=(320, 320)),
)
