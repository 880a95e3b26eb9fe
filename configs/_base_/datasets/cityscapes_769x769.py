# As in mmseg, with batches of 2 for 4 GPUs, and augmented by scale, crop and flip only.
dataset_type = 'CityscapesDataset'
data_root = '{{$CITYSCAPES_ROOT:data/cityscapes}}'
crop_size = (769, 769)
img_scale = (2049, 1025)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=img_scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=img_scale, keep_ratio=True),
    # after Resize: predictions are evaluated at the size of the label map
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
# Training uses the training images only, as in mmseg. tools/train.py --trainval adds the
# validation images, which is common for the server's figures: where the training data set
# finds them.
trainval = dict(data_prefix=val_dataloader['dataset']['data_prefix'])
# Merged by tools/test.py --submission: the images without public labels, and the metric
# that writes the files for the benchmark's server.
submission = dict(
    test_dataloader=dict(
        dataset=dict(
            data_prefix=dict(img_path='leftImg8bit/test', seg_map_path=''),
            pipeline=[step for step in test_pipeline if step['type'] != 'LoadAnnotations'],
        )
    ),
    test_evaluator=dict(
        _delete_=True, type='CityscapesMetric', format_only=True, keep_results=True
    ),
)
