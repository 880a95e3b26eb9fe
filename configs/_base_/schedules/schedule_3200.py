# The recipe of the paper's rows, shortened to 3,200 iterations for a backbone with ImageNet
# weights and a machine without a GPU. The rate and the number of iterations were chosen by
# configs/studies/natural-selection.yml.
_base_ = './schedule_50k.py'
optim_wrapper = dict(optimizer=dict(lr=0.016))
param_scheduler = [
    dict(type='PolyLR', eta_min=0, power=0.9, begin=0, end=3200, by_epoch=False)
]
train_cfg = dict(max_iters=3200, val_interval=3200)
default_hooks = dict(
    logger=dict(interval=20), checkpoint=dict(interval=400, max_keep_ckpts=1)
)
