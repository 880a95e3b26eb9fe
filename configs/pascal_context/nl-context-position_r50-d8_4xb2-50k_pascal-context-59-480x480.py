_base_ = './nl-context_r50-d8_4xb2-50k_pascal-context-59-480x480.py'
model = dict(decode_head=dict(block=dict(position='relative_sinusoid')))
