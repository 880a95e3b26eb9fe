# mmdet's 1x schedule with the paper's learning rate, for 8 GPUs with 2 images each.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'
optim_wrapper = dict(optimizer=dict(lr=0.01))
