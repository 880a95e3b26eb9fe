# The recipe of the paper's rows, shortened to 800 iterations for a backbone with ImageNet
# weights and a machine without a GPU.
_base_ = './schedule_50k.py'
optim_wrapper = dict(optimizer=dict(lr=0.004))
param_scheduler = [
    dict(type='PolyLR', eta_min=0, power=0.9, begin=0, end=800, by_epoch=False)
]
train_cfg = dict(max_iters=800, val_interval=800)
default_hooks = dict(
    logger=dict(interval=20), checkpoint=dict(interval=400, max_keep_ckpts=1)
)
