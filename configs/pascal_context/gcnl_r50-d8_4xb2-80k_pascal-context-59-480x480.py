# The paper's block at the end of the FCN. The reduction is that of mmseg's NLHead.
_base_ = './fcn_r50-d8_4xb2-80k_pascal-context-59-480x480.py'
model = dict(decode_head=dict(type='GCNLHead', block=dict(reduction=2)))
