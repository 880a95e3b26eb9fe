_base_ = [
    '../_base_/models/fcn_effnet-lite0.py',
    '../_base_/datasets/msrc21.py',
    '../_base_/schedules/schedule_3200.py',
    '../_base_/default_runtime.py',
]
model = dict(data_preprocessor=dict(size=_base_.crop_size))
tta_pipeline = None  # its scales are for larger images
