# A small RetinaNet on EfficientNet-Lite0, for a machine without a GPU.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/datasets/voc_animals_detection.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/det_runtime.py',
]
model = dict(
    data_preprocessor=dict(mean=[127, 127, 127], std=[128, 128, 128]),
    backbone=dict(
        _delete_=True,
        type='EfficientNetLite0',
        out_indices=(2, 4, 6),
        frozen_stages=2,
        norm_eval=True,
    ),
    neck=dict(in_channels=[40, 112, 320], out_channels=64, start_level=0),
    bbox_head=dict(num_classes=5, in_channels=64, feat_channels=64, stacked_convs=2),
)
train_cfg = dict(max_epochs=6)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=200),
    dict(type='MultiStepLR', begin=0, end=6, by_epoch=True, milestones=[4], gamma=0.1),
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
auto_scale_lr = dict(base_batch_size=8)
