# Plain non-local attention: mmseg's NLHead, started as the paper's block.
_base_ = './gcnl_r50-d8_4xb2-303k_ade20k-480x480.py'
model = dict(
    decode_head=dict(
        block=dict(num_heads=1, context=None, position=None, attn_drop_rate=0.0)
    )
)
