_base_ = [
    '../_base_/models/fcn_r50-d8.py',
    '../_base_/datasets/cityscapes_769x769.py',
    '../_base_/schedules/schedule_89k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=19, align_corners=True),
    test_cfg=dict(mode='slide', crop_size=_base_.crop_size, stride=(513, 513)),
)
