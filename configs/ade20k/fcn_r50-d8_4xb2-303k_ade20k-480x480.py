_base_ = [
    '../_base_/models/fcn_r50-d8.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/schedule_303k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(num_classes=150),
    test_cfg=dict(mode='slide', crop_size=_base_.crop_size, stride=(320, 320)),
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
