# Without a block. The other configs of this folder add one.
_base_ = ['../_base_/datasets/probe.py', '../_base_/default_runtime.py']
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[110, 110, 110],
        std=[60, 60, 60],
        bgr_to_rgb=True,
        size=(48, 48),
        seg_pad_val=255,
    ),
    backbone=dict(type='ProbeBackbone'),
    decode_head=dict(
        type='FCNHead',
        in_channels=32,
        channels=64,
        num_classes=7,
        kernel_size=1,  # the head sees no further than the backbone
        concat_input=False,
        act_cfg=None,  # nothing nonlinear behind the block, see ProbeDataset
        dropout_ratio=0,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        # with mmseg's 0.01, a block that starts as the identity gets almost no gradient
        init_cfg=dict(type='Normal', std=0.07, override=dict(name='conv_seg')),
        loss_decode=dict(
            type='CrossEntropyLoss',
            # ground, sky, lamp: easy, and most of the image
            class_weight=[0.1, 0.1, 0.2, 1.0, 1.0, 1.0, 1.0],
        ),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=3e-3, weight_decay=1e-4)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(type='PolyLR', eta_min=0, power=0.9, begin=100, end=600, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=600, val_interval=600)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=20, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=600),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
randomness = dict(seed=0)
auto_scale_lr = dict(enable=False, base_batch_size=32)
