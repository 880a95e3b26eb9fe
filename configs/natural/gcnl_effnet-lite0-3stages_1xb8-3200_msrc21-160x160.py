# The paper's block at the end of the FCN.
_base_ = './fcn_effnet-lite0-3stages_1xb8-3200_msrc21-160x160.py'
model = dict(decode_head=dict(type='GCNLHead', block=dict(reduction=2)))
