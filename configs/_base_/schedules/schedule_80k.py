# Assumed, as the paper gives no number: as many images as mmseg's 40k iterations
# of 16 images on Pascal Context; mmseg's own 80k of 8 on Cityscapes.
_base_ = './schedule_20k.py'
param_scheduler = [
    dict(type='PolyLR', eta_min=0, power=0.9, begin=0, end=80000, by_epoch=False)
]
train_cfg = dict(max_iters=80000, val_interval=8000)
default_hooks = dict(checkpoint=dict(interval=8000))
