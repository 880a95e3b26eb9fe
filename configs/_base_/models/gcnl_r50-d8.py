# The block at the end of the FCN. Assumed: the reduction is that of mmseg's NLHead.
_base_ = './fcn_r50-d8.py'
model = dict(decode_head=dict(type='GCNLHead', block=dict(reduction=2)))
