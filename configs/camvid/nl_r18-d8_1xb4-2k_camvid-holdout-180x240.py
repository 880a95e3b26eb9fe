# Plain non-local attention: mmseg's own NLHead.
_base_ = './fcn_r18-d8_1xb4-2k_camvid-holdout-180x240.py'
model = dict(decode_head=dict(type='NLHead', reduction=2))
