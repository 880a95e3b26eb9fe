# The paper's block at the end of the FCN. The reduction is that of mmseg's NLHead.
_base_ = './fcn_r50-d8_4xb2-160k_ade20k-512x512.py'
model = dict(decode_head=dict(type='GCNLHead', block=dict(reduction=2)))
