# For configs/studies/camvid.yml: trains on the training and the validation images, keeps
# the last checkpoint, and tests on the two sequences of the test split together and apart.
_base_ = './fcn_r18-d8_1xb4-500_camvid-180x240.py'
dataset = dict(
    type=_base_.dataset_type,
    data_root=_base_.data_root,
    pipeline=_base_.train_pipeline,
)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        datasets=[
            dict(
                data_prefix=dict(
                    img_path=f'images/{split}', seg_map_path=f'annotations/{split}'
                ),
                **dataset,
            )
            for split in ('train', 'val')
        ],
    )
)
val_dataloader = None
val_cfg = None
val_evaluator = None
test_evaluator = dict(
    _delete_=True,
    type='SubsetIoUMetric',
    # All but the rare classes, those with less than 2 % of the labelled pixels of train and
    # val: pole, sign, fence, pedestrian and bicyclist have 0.7 to 1.6 %, car has 5.2 %.
    classes=dict(frequent=['sky', 'building', 'road', 'pavement', 'tree', 'car']),
    images={'Seq05VD': 'Seq05VD', '0001TP': '0001TP'},
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', eta_min=0, power=0.9, begin=50, end=2000, by_epoch=False),
]
train_cfg = dict(max_iters=2000, val_interval=2000)
