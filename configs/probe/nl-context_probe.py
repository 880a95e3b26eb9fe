# Context only.
_base_ = './gcnl_probe.py'
model = dict(decode_head=dict(block=dict(position=None)))
