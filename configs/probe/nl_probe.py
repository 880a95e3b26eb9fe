# Plain non-local attention.
_base_ = './gcnl_probe.py'
model = dict(decode_head=dict(block=dict(context=None, position=None)))
