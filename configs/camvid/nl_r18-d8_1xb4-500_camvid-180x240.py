# Plain non-local attention: mmseg's NLHead.
_base_ = './gcnl_r18-d8_1xb4-500_camvid-180x240.py'
model = dict(
    decode_head=dict(
        block=dict(num_heads=1, context=None, position=None, attn_drop_rate=0.0)
    )
)
