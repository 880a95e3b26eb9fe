# Plain non-local attention: mmseg's NLHead.
_base_ = './gcnl_r50-d8_1xb8-20k_camvid-360x480.py'
model = dict(
    decode_head=dict(
        block=dict(num_heads=1, context=None, position=None, attn_drop_rate=0.0)
    )
)
