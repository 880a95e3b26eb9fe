# For configs/studies/natural-selection.yml: every fifth of the 335 training images is held
# out and evaluated on instead of the validation images.
_base_ = './gcnl_effnet-lite0-3stages_1xb8-800_msrc21-160x160.py'
train_dataloader = dict(dataset=dict(indices=[i for i in range(335) if i % 5]))
held_out = dict(
    data_prefix=_base_.train_dataloader.dataset.data_prefix,
    indices=[i for i in range(335) if i % 5 == 0],
)
val_dataloader = dict(dataset=held_out)
test_dataloader = dict(dataset=held_out)
