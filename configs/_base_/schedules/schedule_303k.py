# 120 epochs of ADE20K's 20,210 training images, 8 an iteration.
_base_ = './schedule_50k.py'
param_scheduler = [
    dict(type='PolyLR', eta_min=0, power=0.9, begin=0, end=303000, by_epoch=False)
]
train_cfg = dict(max_iters=303000, val_interval=30300)
default_hooks = dict(checkpoint=dict(interval=30300))
