# For configs/studies/natural-selection.yml: every fifth of the 335 training images is held
# out and evaluated on instead of the validation images, and training starts from the
# shorter schedule that the study compares with others.
_base_ = './gcnl_effnet-lite0-3stages_1xb8-3200_msrc21-160x160.py'
optim_wrapper = dict(optimizer=dict(lr=0.004))
param_scheduler = [
    dict(type='PolyLR', eta_min=0, power=0.9, begin=0, end=800, by_epoch=False)
]
train_cfg = dict(max_iters=800, val_interval=800)
train_dataloader = dict(dataset=dict(indices=[i for i in range(335) if i % 5]))
held_out = dict(
    data_prefix=_base_.train_dataloader.dataset.data_prefix,
    indices=[i for i in range(335) if i % 5 == 0],
)
val_dataloader = dict(dataset=held_out)
test_dataloader = dict(dataset=held_out)
