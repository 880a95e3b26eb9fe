# The recipe of PyTorch-Encoding, which the paper's printed rates come from
# (docs/results.md, "Assumptions"): the head at ten times the rate of the backbone, a weight
# decay of 1e-4, no warm-up. 50,000 iterations of 8 images: 80 epochs of Pascal Context.
_base_ = './schedule_20k.py'
optim_wrapper = dict(
    optimizer=dict(weight_decay=0.0001),
    paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=10.0)}),
)
param_scheduler = [
    dict(type='PolyLR', eta_min=0, power=0.9, begin=0, end=50000, by_epoch=False)
]
train_cfg = dict(max_iters=50000, val_interval=5000)
default_hooks = dict(checkpoint=dict(interval=5000))
