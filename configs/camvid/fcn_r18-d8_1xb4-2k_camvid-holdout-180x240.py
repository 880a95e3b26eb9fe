# For configs/studies/camvid-selection.yml: as the trainval config, with one sequence of the
# training images held out and tested on instead of the test split.
_base_ = './fcn_r18-d8_1xb4-2k_camvid-trainval-180x240.py'
_train, _val = _base_.train_dataloader.dataset.datasets
train_dataloader = dict(
    dataset=dict(datasets=[dict(_train, sequences=['0001TP', '0016E5']), _val])
)
test_dataloader = dict(dataset=dict(data_prefix=_train.data_prefix, sequences=['0006R0']))
