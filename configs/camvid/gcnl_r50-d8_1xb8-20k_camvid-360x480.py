# The paper's block at the end of the FCN. The reduction is that of mmseg's NLHead.
_base_ = './fcn_r50-d8_1xb8-20k_camvid-360x480.py'
model = dict(decode_head=dict(type='GCNLHead', block=dict(reduction=2)))
