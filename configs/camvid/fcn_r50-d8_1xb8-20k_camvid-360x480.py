_base_ = [
    '../_base_/models/fcn_r50-d8.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/schedule_20k.py',
    '../_base_/default_runtime.py',
]
# On one GPU, SyncBN equals BN, which also runs on a CPU.
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(norm_cfg=norm_cfg),
    decode_head=dict(norm_cfg=norm_cfg, num_classes=11),
)
