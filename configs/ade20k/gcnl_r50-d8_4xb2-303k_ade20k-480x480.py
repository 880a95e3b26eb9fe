# The paper's block at the end of the FCN. The reduction is that of mmseg's NLHead, the
# start that of PyTorch-Encoding's heads.
_base_ = './fcn_r50-d8_4xb2-303k_ade20k-480x480.py'
model = dict(decode_head=dict(type='GCNLHead', block=dict(reduction=2, init='torch')))
