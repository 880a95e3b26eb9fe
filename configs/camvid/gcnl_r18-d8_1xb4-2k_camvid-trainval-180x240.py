# The paper's block at the end of the FCN.
_base_ = './fcn_r18-d8_1xb4-2k_camvid-trainval-180x240.py'
model = dict(decode_head=dict(type='GCNLHead', block=dict(reduction=2)))
