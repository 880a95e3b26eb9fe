# EfficientNet-Lite0 with ImageNet weights at an output stride of 16: small enough for a
# machine without a GPU. The schedule is that of the paper's rows.
_base_ = [
    '../_base_/datasets/msrc21.py',
    '../_base_/schedules/schedule_50k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127, 127, 127],
        std=[128, 128, 128],
        bgr_to_rgb=True,
        size=_base_.crop_size,
        pad_val=127,
        seg_pad_val=255,
    ),
    # The batch norm keeps ImageNet's statistics: 8 images are few.
    backbone=dict(
        type='EfficientNetLite0', out_indices=(6,), output_stride=16, norm_eval=True
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=320,
        channels=128,
        num_classes=21,
        dropout_ratio=0.1,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss'),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
optim_wrapper = dict(optimizer=dict(lr=0.004))
param_scheduler = [
    dict(type='PolyLR', eta_min=0, power=0.9, begin=0, end=800, by_epoch=False)
]
train_cfg = dict(max_iters=800, val_interval=800)
default_hooks = dict(
    logger=dict(interval=20), checkpoint=dict(interval=400, max_keep_ckpts=1)
)
tta_pipeline = None  # its scales are for larger images
