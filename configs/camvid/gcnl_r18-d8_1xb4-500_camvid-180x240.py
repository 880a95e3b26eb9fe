# The paper's block at the end of the FCN. The reduction is that of mmseg's NLHead.
_base_ = './fcn_r18-d8_1xb4-500_camvid-180x240.py'
model = dict(decode_head=dict(type='GCNLHead', block=dict(reduction=2)))
