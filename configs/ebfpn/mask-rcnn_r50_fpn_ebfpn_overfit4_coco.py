# Overfits 4 training images, from scratch and at a small size, for machines without a GPU.
# No stage is frozen and BN is trained, because nothing is pretrained. tools/test.py
# evaluates on the same images.
_base_ = './mask-rcnn_r50_fpn_ebfpn_1x_coco.py'
img_scale = (320, 192)
model = dict(
    backbone=dict(frozen_stages=-1, norm_eval=False, init_cfg=None),
    # with 512 regions, the heads would take most of the time
    train_cfg=dict(rcnn=dict(sampler=dict(num=64))),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=img_scale, keep_ratio=True),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=img_scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=(
            *('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
            'instances',  # what the metric compares with, instead of a file
        ),
    ),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=1,
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    batch_sampler=None,
    dataset=dict(indices=4, pipeline=train_pipeline),
)
val_dataloader = None
val_cfg = None
val_evaluator = None
test_dataloader = dict(
    dataset=dict(
        indices=4,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        filter_cfg=_base_.train_dataloader.dataset.filter_cfg,
        test_mode=False,
        pipeline=test_pipeline,
    )
)
test_evaluator = dict(ann_file=None)
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=200)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, begin=0, end=50, by_epoch=False)]
log_processor = dict(by_epoch=False, window_size=10)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(by_epoch=False, interval=200, max_keep_ckpts=1),
)
auto_scale_lr = dict(base_batch_size=2)
