# The paper's 36 epochs. Assumed: the learning rate decays after the same fractions as in
# 12 epochs, and images have one size (mmdet's 3x configs vary it).
_base_ = './schedule_1x.py'
train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(
        type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[24, 33], gamma=0.1
    ),
]
