# Plain non-local attention, which starts as mmcv's.
_base_ = './gcnl_probe.py'
model = dict(decode_head=dict(block=dict(context=None, position=None, init='normal')))
