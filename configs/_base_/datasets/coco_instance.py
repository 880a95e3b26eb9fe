# As in mmdet, with the data root from the environment.
_base_ = 'mmdet::_base_/datasets/coco_instance.py'
data_root = '{{$COCO_ROOT:data/coco}}'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + '/annotations/instances_val2017.json')
test_evaluator = val_evaluator
# Merged by tools/test.py --submission: test-dev, which the benchmark's server evaluates.
submission = dict(
    test_dataloader=dict(
        dataset=dict(
            ann_file='annotations/image_info_test-dev2017.json',
            data_prefix=dict(img='test2017/'),
        )
    ),
    test_evaluator=dict(
        ann_file=data_root + '/annotations/image_info_test-dev2017.json', format_only=True
    ),
)
