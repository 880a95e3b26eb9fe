# 240 epochs of Cityscapes' 2,975 training images, 8 an iteration.
_base_ = './schedule_50k.py'
param_scheduler = [
    dict(type='PolyLR', eta_min=0, power=0.9, begin=0, end=89000, by_epoch=False)
]
train_cfg = dict(max_iters=89000, val_interval=8900)
default_hooks = dict(checkpoint=dict(interval=8900))
